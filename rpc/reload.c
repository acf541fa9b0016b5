/* Reloading; see the header. Main thread. */
#include "rpc/reload.h"
#include "core/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One side of the answer: names, as many as fit. */
struct list {
	unsigned count;
	char names[160];
};

struct changes {
	const struct config *from, *to;
	struct list now, restart;
};

static void add(struct list *l, const char *key)
{
	size_t n = strlen(l->names);
	snprintf(l->names + n, sizeof l->names - n, "%s%s", l->count++ ? ", " : "", key);
}

static void note(void *ctx, const struct config_option *o)
{
	struct changes *k = ctx;
	char was[256], is[256];
	config_value(k->from, o, was, sizeof was);
	config_value(k->to, o, is, sizeof is);
	add(o->live ? &k->now : &k->restart, o->key);
	if (o->live)
		log_info("reload: %s is %s now; it was %s", o->key, is, was);
	else
		log_warn("reload: %s is %s in the file and %s in force; a restart is needed for it", o->key, is, was);
}

/* What is to stay in force tells why. */
static int read_files(struct daemon *d, const char **ret_why)
{
	int rc = daemon_load_tls(d, ret_why);
	if (rc) {
		log_error("reload: the certificates in force stay: %s", *ret_why);
	} else if (*d->cfg.tls_cert) {
		log_info("reload: the certificates were read again");
	}
	const char *why;
	int access_rc = daemon_load_access(d, &why);
	if (access_rc) {
		log_error("reload: the rules of access in force stay: %s", why);
		*ret_why = why;
	} else if (*d->cfg.access_file) {
		log_info("reload: the rules of access were read again: %u of them", access_count(d->access.now));
	}
	return rc ? rc : access_rc;
}

int reload(struct daemon *d, const struct reload_source *from, char ret_answer[RELOAD_ANSWER])
{
	struct config fresh;
	struct config_error error;
	int rc = config_load(&fresh, from->file, from->overrides, from->override_count, &error);
	if (rc) {
		log_error("reload refused, nothing has changed: %s", error.text);
		snprintf(ret_answer, RELOAD_ANSWER, "Reload refused, nothing has changed: %.400s", error.text);
		return rc;
	}
	struct changes k = {.from = &d->cfg, .to = &fresh};
	/* Whatever the level, the answer is in the log. */
	enum log_level level = log_get_level();
	if (level > LOG_LEVEL_INFO)
		log_set_level(LOG_LEVEL_INFO);
	config_changes(&d->cfg, &fresh, note, &k);
	rc = daemon_apply(d, &fresh);
	config_done(&fresh);
	if (rc) {
		log_set_level(level);
		log_error("reload refused, nothing has changed: %s", strerror(-rc));
		snprintf(ret_answer, RELOAD_ANSWER, "Reload refused, nothing has changed: %s", strerror(-rc));
		return rc;
	}
	const char *why = NULL;
	level = log_get_level();
	if (level > LOG_LEVEL_INFO)
		log_set_level(LOG_LEVEL_INFO);
	rc = read_files(d, &why);
	snprintf(ret_answer, RELOAD_ANSWER, "Reloaded: changed %s; a restart is needed for %s%s%.120s",
		 k.now.count ? k.now.names : "nothing", k.restart.count ? k.restart.names : "nothing",
		 rc ? "; in force stays what cannot be read: " : "", rc ? why : "");
	log_info("%s", ret_answer);
	log_set_level(level);
	return rc;
}
