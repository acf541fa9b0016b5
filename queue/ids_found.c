/* A growing array and a table of its names; see the header. One thread. */
#include "queue/ids_found.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct span name_at(const void *ctx, uint32_t index)
{
	const struct found_sequence *s = &((const struct ids_found *)ctx)->v[index];

	return (struct span){(const uint8_t *)s->name, s->name_len};
}

int ids_found_init(struct ids_found *f)
{
	*f = (struct ids_found){.v = NULL};
	return names_init(&f->names, NULL, name_at, f);
}

void ids_found_done(struct ids_found *f)
{
	names_done(&f->names);
	free(f->v);
	*f = (struct ids_found){.v = NULL};
}

int ids_found_slot(struct ids_found *f, struct span name, struct found_sequence **ret)
{
	uint64_t hash = names_hash(&f->names, name);
	struct found_sequence *s;
	uint32_t index;
	int rc;

	if (names_find(&f->names, hash, name, &index)) {
		*ret = &f->v[index];
		return 0;
	}
	if (f->count == f->room) {
		uint32_t room = f->room ? 2 * f->room : 64;

		s = reallocarray(f->v, room, sizeof *s);
		if (s == NULL)
			return -ENOMEM;
		f->v = s;
		f->room = room;
	}
	s = &f->v[f->count];
	*s = (struct found_sequence){.position = 1, .name_len = (uint32_t)name.n}; /* the first ID */
	if (name.n != 0)
		memcpy(s->name, name.p, name.n);
	rc = names_add(&f->names, hash, f->count);
	if (rc != 0)
		return rc;
	f->count++;
	*ret = s;
	return 0;
}
