/* The method table; see the header. Pure reading after start. */
#include "rpc/method.h"
#include "core/base/check.h"

#include <string.h>

/* FNV-1a, 32 bits. */
static uint32_t hash_of(uint32_t h, const void *p, size_t n)
{
	const uint8_t *b = p;
	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * 16777619u;
	return h;
}

static uint32_t hash_path(const struct method *m)
{
	uint32_t h = hash_of(2166136261u, "/", 1);
	h = hash_of(h, m->service, strlen(m->service));
	h = hash_of(h, "/", 1);
	return hash_of(h, m->name, strlen(m->name));
}

static bool is_path_of(const struct method *m, struct span path)
{
	size_t s = strlen(m->service), n = strlen(m->name);
	return path.n == s + n + 2 && path.p[0] == '/' && memcmp(path.p + 1, m->service, s) == 0 &&
	       path.p[s + 1] == '/' && memcmp(path.p + s + 2, m->name, n) == 0;
}

void method_table_add(struct method_table *t, const struct method *methods, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct method *m = &methods[i];
		uint32_t h = hash_path(m);
		CHECK(t->count < RPC_METHODS_MAX);
		for (unsigned k = 0; k < t->count; k++)
			CHECK(strcmp(t->method[k]->service, m->service) != 0 ||
			      strcmp(t->method[k]->name, m->name) != 0);
		t->method[t->count] = m;
		t->hash[t->count] = h;
		if (m->number) {
			CHECK(m->number < RPC_METHODS_MAX && t->by_number[m->number] == 0);
			t->by_number[m->number] = (uint16_t)(t->count + 1);
		}
		t->count++;
	}
}

int method_find(const struct method_table *t, struct span path)
{
	uint32_t h = hash_of(2166136261u, path.p, path.n);
	for (unsigned i = 0; i < t->count; i++) {
		if (t->hash[i] == h && is_path_of(t->method[i], path))
			return (int)i;
	}
	return -1;
}

int method_find_number(const struct method_table *t, uint16_t number)
{
	return number < RPC_METHODS_MAX ? (int)t->by_number[number] - 1 : -1;
}

bool method_service_exists(const struct method_table *t, struct span path)
{
	for (unsigned i = 0; i < t->count; i++) {
		size_t s = strlen(t->method[i]->service);
		if (path.n > s + 1 && path.p[0] == '/' && memcmp(path.p + 1, t->method[i]->service, s) == 0 &&
		    path.p[s + 1] == '/')
			return true;
	}
	return false;
}
