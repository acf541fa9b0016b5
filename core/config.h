/* The daemon's configuration: Kconfig's defaults, then a file, then overrides from the command line.
 *
 * The options themselves are listed once, in Kconfig; build/gen/config_gen.h (struct config and the constants of enumerations) and the table
 * below are generated from it. Strings of a loaded configuration belong to it. Main thread; a loaded configuration is read-only and may be
 * read by any thread. */
#ifndef ORDINAL_CORE_CONFIG_H
#define ORDINAL_CORE_CONFIG_H

#include "config_gen.h"

#include <stddef.h>
#include <stdio.h>

#define CONFIG_ERROR_MAX 512

/* Why a configuration was refused: one sentence with file:line (or -o) and what would be accepted. */
struct config_error {
	char text[CONFIG_ERROR_MAX];
};

enum config_kind { CONFIG_BOOL, CONFIG_INT, CONFIG_STRING, CONFIG_ENUM };

struct config_option {
	const char *key; /* without the prefix CONFIG_ */
	enum config_kind kind;
	bool build; /* compiled in: def_int is the value, there is no field */
	bool live;  /* may change while the daemon runs */
	bool pow2;
	size_t offset; /* of the field in struct config */
	int64_t min, max;
	int64_t def_int; /* bool, int, and the index of an enumeration's word */
	const char *def_text;
	const char *const *words; /* of an enumeration; NULL ends */
	const char *menu, *prompt, *help;
};
extern const struct config_option config_options[];
extern const unsigned config_option_count;

/* Fills *ret: defaults, then `file` (NULL: none), then the `n` overrides of the form KEY=VALUE, then config_check. 0; -EINVAL: refused; or the
 * -errno of reading the file. On failure *ret is untouched and *why is set. On success the caller ends it with config_done. */
int config_load(struct config *ret, const char *file, const char *const *overrides, size_t n, struct config_error *why);
void config_done(struct config *c);

/* What no option can say alone: powers of two, one limit against another, the form of addresses. 0 or -EINVAL with *why set. */
int config_check(const struct config *c, struct config_error *why);

/* Prints every option in the syntax of .config; what it prints loads back to the same values. */
void config_dump(const struct config *c, FILE *f);
/* The list of runtime options for --help. */
void config_help(FILE *f);

/* Compares two configurations for a reload: calls `changed` for every runtime option that differs, with option->live saying whether the
 * running daemon may take it over. Returns the number of calls. */
unsigned config_changes(const struct config *from, const struct config *to,
			void (*changed)(void *ctx, const struct config_option *o), void *ctx);

/* Takes the values of all live options over; `to` keeps its strings (no live option is one, which is asserted). */
void config_take_live(struct config *to, const struct config *from);
/* The value of a runtime option as a file has it, for people: 5000, y, "text". Returns buf. */
const char *config_value(const struct config *c, const struct config_option *o, char *buf, size_t cap);
/* Prints the assignments that differ from the defaults, each with the default and when a change takes effect. Returns how many, or -ENOMEM. */
int config_diff(const struct config *c, FILE *f);

/* Splits LISTEN. `ret_host` has no brackets and `cap` bytes of room. 0, or -EINVAL: not HOST:PORT. */
int config_listen_split(const char *listen, char *ret_host, size_t cap, uint16_t *ret_port);

#endif
