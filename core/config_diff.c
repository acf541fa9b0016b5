/* Values of a loaded configuration seen one by one: as text, beside the defaults, and what a reload takes over. Main thread. */
#include "core/base/check.h"
#include "core/config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void *field(const struct config *c, const struct config_option *o)
{
	return (char *)(uintptr_t)c + o->offset;
}

static size_t field_size(const struct config_option *o)
{
	return o->kind == CONFIG_BOOL ? sizeof(bool) : o->kind == CONFIG_INT ? sizeof(int64_t) : sizeof(int);
}

void config_take_live(struct config *to, const struct config *from)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (o->build || !o->live)
			continue;
		CHECK(o->kind != CONFIG_STRING);
		memcpy(field(to, o), field(from, o), field_size(o));
	}
}

static void quote(const char *s, char *buf, size_t cap)
{
	size_t n = 0;
	buf[n++] = '"';
	for (; *s && n + 4 < cap; s++) {
		if (*s == '"' || *s == '\\')
			buf[n++] = '\\';
		buf[n++] = *s;
	}
	buf[n++] = '"';
	buf[n] = '\0';
}

const char *config_value(const struct config *c, const struct config_option *o, char *buf, size_t cap)
{
	switch (o->kind) {
	case CONFIG_BOOL:
		snprintf(buf, cap, "%c", *(bool *)field(c, o) ? 'y' : 'n');
		break;
	case CONFIG_INT:
		snprintf(buf, cap, "%" PRId64, *(int64_t *)field(c, o));
		break;
	case CONFIG_ENUM:
		snprintf(buf, cap, "\"%s\"", o->words[*(int *)field(c, o)]);
		break;
	case CONFIG_STRING:
		quote(*(const char **)field(c, o), buf, cap);
		break;
	}
	return buf;
}

struct diff {
	const struct config *from, *to;
	FILE *f;
};

static void print(void *ctx, const struct config_option *o)
{
	const struct diff *d = ctx;
	char now[4200], before[4200];
	fprintf(d->f, "CONFIG_%s=%s\n\t# %s; default %s; a change takes effect on %s\n", o->key,
		config_value(d->to, o, now, sizeof now), o->prompt, config_value(d->from, o, before, sizeof before),
		o->live ? "reload" : "restart");
}

int config_diff(const struct config *c, FILE *f)
{
	struct config defaults;
	struct config_error why;
	int rc = config_load(&defaults, NULL, NULL, 0, &why);
	if (rc)
		return rc;
	struct diff d = {&defaults, c, f};
	int n = (int)config_changes(&defaults, c, print, &d);
	config_done(&defaults);
	return n;
}
