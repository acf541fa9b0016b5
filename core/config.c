/* Reads the daemon's configuration: defaults, then a file, then overrides, each layer over the one before.
 *
 * The file has the syntax of Kconfig's .config, so what `make menuconfig` writes is read here as it is. An enumeration appears in it in two
 * forms at once: as the members of a choice (CONFIG_ID_ORDER_SHARDED=y, the others "is not set") and as a string
 * (CONFIG_ID_ORDER="sharded"). Either alone is enough; forms that contradict each other within a layer are refused.
 *
 * Invariants: nothing is skipped or repaired in silence: a line is an assignment that was taken, a comment, or the reason for a refusal. A
 * refused load leaves the caller's configuration as it was. Strings of a loaded configuration are heap copies, and never NULL.
 * Runs on the main thread, at start and for --check. What no option can say alone is checked in config_check.c; whether an address can be
 * bound or a directory written is found out by those who use them.
 */
#include "core/config.h"
#include "core/base/check.h"
#include "core/config_origin.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)
#define VALUE_MAX 4096
#define PREFIX "CONFIG_"
#define PREFIX_LEN (sizeof PREFIX - 1)
#define WORDS_MAX 32

/* What one layer (the file, or the command line) has said about one option. */
struct said {
	unsigned line;     /* of the assignment by key, 0: none */
	unsigned yes_line; /* of the assignment MEMBER=y of an enumeration */
	uint32_t yes, no;  /* members by bit */
	int word;          /* by key, valid with `line` */
	unsigned member_line[WORDS_MAX];
};

struct load {
	struct config config;
	struct config_origin *origins; /* one an option */
	struct said *said;
	const char *file; /* NULL: the command line */
	unsigned line;
	const char *override; /* the text of the one being read */
	struct config_error *why;
};

/* A key with what it means: an option, or one word of an enumeration. */
struct target {
	unsigned index;
	int word; /* -1: the option itself */
};

static int __attribute__((format(printf, 2, 3))) refuse(const struct load *l, const char *fmt, ...)
{
	char text[CONFIG_ERROR_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (l->file)
		snprintf(l->why->text, sizeof l->why->text, "%s:%u: %.400s", l->file, l->line, text);
	else
		snprintf(l->why->text, sizeof l->why->text, "-o %.80s: %.400s", l->override, text);
	return -EINVAL;
}

static void *field(const struct config *c, const struct config_option *o)
{
	return (char *)(uintptr_t)c + o->offset;
}

static int64_t number_of(const struct config *c, const struct config_option *o)
{
	if (o->build)
		return o->def_int;
	switch (o->kind) {
	case CONFIG_BOOL:
		return *(bool *)field(c, o);
	case CONFIG_INT:
		return *(int64_t *)field(c, o);
	default:
		return *(int *)field(c, o);
	}
}

static const char *text_of(const struct config *c, const struct config_option *o)
{
	return *(const char **)field(c, o);
}

static void set_number(struct config *c, const struct config_option *o, int64_t v)
{
	if (o->kind == CONFIG_BOOL)
		*(bool *)field(c, o) = v != 0;
	else if (o->kind == CONFIG_INT)
		*(int64_t *)field(c, o) = v;
	else
		*(int *)field(c, o) = (int)v;
}

static int set_text(struct config *c, const struct config_option *o, const char *v)
{
	char *copy = strdup(v);
	if (!copy)
		return -ENOMEM;
	free((void *)(uintptr_t)text_of(c, o));
	*(const char **)field(c, o) = copy;
	return 0;
}

static int set_defaults(struct config *c)
{
	memset(c, 0, sizeof *c);
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (o->build)
			continue;
		if (o->kind != CONFIG_STRING)
			set_number(c, o, o->def_int);
		else if (set_text(c, o, o->def_text))
			return -ENOMEM;
	}
	return 0;
}

void config_done(struct config *c)
{
	for (unsigned i = 0; i < config_option_count; i++)
		if (config_options[i].kind == CONFIG_STRING)
			free((void *)(uintptr_t)text_of(c, &config_options[i]));
	memset(c, 0, sizeof *c);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* Whether `key` is the name of member `word` of an enumeration: ID_ORDER_SHARDED for "sharded". */
static bool is_member(const struct config_option *o, const char *word, const char *key)
{
	size_t n = strlen(o->key);
	if (strncmp(key, o->key, n) != 0 || key[n] != '_')
		return false;
	for (key += n + 1; *word && *key; word++, key++)
		if (toupper((unsigned char)*word) != *key)
			return false;
	return !*word && !*key;
}

static bool find(const char *key, struct target *ret)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (strcmp(o->key, key) == 0) {
			*ret = (struct target){i, -1};
			return true;
		}
		for (int w = 0; o->kind == CONFIG_ENUM && o->words[w]; w++)
			if (is_member(o, o->words[w], key)) {
				*ret = (struct target){i, w};
				return true;
			}
	}
	return false;
}

/* Edits (insert, delete, replace one character; case is free) between two keys; both shorter than 64. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[65];
	size_t nb = strlen(b);
	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			bool differ = toupper((unsigned char)a[i - 1]) != toupper((unsigned char)b[j - 1]);
			unsigned best = diagonal + differ;
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[nb];
}

static int refuse_key(const struct load *l, const char *key)
{
	unsigned best = 4; /* farther than this is no misspelling */
	const char *nearest = NULL;
	for (unsigned i = 0; i < config_option_count && strlen(key) < 64; i++) {
		unsigned d = distance(key, config_options[i].key);
		if (d < best && d < strlen(key)) {
			best = d;
			nearest = config_options[i].key;
		}
	}
	if (nearest)
		return refuse(l, "there is no option %s%.64s; did you mean %s%s?", PREFIX, key, PREFIX, nearest);
	return refuse(l, "there is no option %s%.64s; `ordinald --help` lists them all", PREFIX, key);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* What an option takes, for the end of a sentence. */
static const char *accepted(const struct config_option *o, char *buf, size_t cap)
{
	size_t n = 0;
	switch (o->kind) {
	case CONFIG_BOOL:
		snprintf(buf, cap, "y or n");
		break;
	case CONFIG_INT:
		snprintf(buf, cap, "a whole number from %" PRId64 " to %" PRId64 "%s", o->min, o->max,
			 o->pow2 ? ", a power of two" : "");
		break;
	case CONFIG_STRING:
		snprintf(buf, cap, "a string in double quotes, as in %s%s=\"%s\"", PREFIX, o->key, o->def_text);
		break;
	case CONFIG_ENUM:
		for (int w = 0; o->words[w] && n < cap; w++)
			n += (size_t)snprintf(buf + n, cap - n, "%s\"%s\"",
					      !w                ? ""
					      : o->words[w + 1] ? ", "
								: " or ",
					      o->words[w]);
		break;
	}
	return buf;
}

static int refuse_value(const struct load *l, const struct config_option *o, const char *value)
{
	char buf[256];
	return refuse(l, "%s%s takes %s, not %.64s", PREFIX, o->key, accepted(o, buf, sizeof buf),
		      *value ? value : "an empty value");
}

/* Takes a string apart: in double quotes with \" and \\, as Kconfig writes it, or bare. Returns false when it is neither. */
static bool unquote(const struct load *l, const char *value, char out[VALUE_MAX])
{
	size_t n = 0;
	if (strlen(value) >= VALUE_MAX)
		return false;
	if (*value != '"') {
		/* In a file a bare blank or # may be a forgotten quote or a comment; in an argument the shell has dealt with that. */
		if (l->file && strpbrk(value, " \t\"#"))
			return false;
		memcpy(out, value, strlen(value) + 1);
		return true;
	}
	for (value++; *value && *value != '"'; value++) {
		if (*value == '\\' && *++value == '\0')
			return false;
		out[n++] = *value;
	}
	out[n] = '\0';
	return value[0] == '"' && value[1] == '\0';
}

static int parse_bool(const struct load *l, const struct config_option *o, const char *value, int64_t *ret)
{
	if (strcmp(value, "y") != 0 && strcmp(value, "n") != 0)
		return refuse_value(l, o, value);
	*ret = *value == 'y';
	return 0;
}

static int parse_int(const struct load *l, const struct config_option *o, const char *value, int64_t *ret)
{
	const char *digits = value + (*value == '-');
	if (!*digits || strspn(digits, "0123456789") != strlen(digits))
		return refuse_value(l, o, value);
	errno = 0;
	long long v = strtoll(value, NULL, 10);
	if (errno || v < o->min || v > o->max)
		return refuse_value(l, o, value);
	*ret = v;
	return 0;
}

static int parse_word(const struct load *l, const struct config_option *o, const char *value, int64_t *ret)
{
	char text[VALUE_MAX];
	for (int w = 0; unquote(l, value, text) && o->words[w]; w++)
		if (strcmp(o->words[w], text) == 0) {
			*ret = w;
			return 0;
		}
	return refuse_value(l, o, value);
}

/* ---- assignments ------------------------------------------------------------------------------------------------- */

static void note_origin(struct load *l, unsigned index)
{
	l->origins[index] = (struct config_origin){l->file, l->file ? l->line : 0, !l->file};
}

static int assign_build(struct load *l, const struct config_option *o, int64_t v)
{
	if (v == o->def_int)
		return 0;
	return refuse(l, "%s%s is %c in this build of ordinald and takes only that; rebuild to change it", PREFIX,
		      o->key, o->def_int ? 'y' : 'n');
}

/* MEMBER=y or =n of an enumeration: kept until the layer is complete. */
static int assign_member(struct load *l, struct target t, const char *value)
{
	const struct config_option *o = &config_options[t.index];
	struct said *s = &l->said[t.index];
	bool yes = strcmp(value, "y") == 0;
	if (!yes && strcmp(value, "n") != 0)
		return refuse(l, "a choice takes y or n, not %.64s", *value ? value : "an empty value");
	if (l->file && s->member_line[t.word])
		return refuse(l, "this choice of %s%s was made before, in line %u", PREFIX, o->key,
			      s->member_line[t.word]);
	s->member_line[t.word] = l->line;
	if (yes && s->yes)
		return refuse(l, "%s%s is chosen to be \"%s\" here and something else in line %u; keep one", PREFIX,
			      o->key, o->words[t.word], s->yes_line);
	if (yes)
		s->yes_line = l->line;
	*(yes ? &s->yes : &s->no) |= UINT32_C(1) << t.word;
	return 0;
}

static int assign_key(struct load *l, unsigned index, const char *value)
{
	const struct config_option *o = &config_options[index];
	struct said *s = &l->said[index];
	int64_t v = 0;
	int rc = 0;
	if (l->file && s->line)
		return refuse(l, "%s%s was set before, in line %u; keep one of the two", PREFIX, o->key, s->line);
	if (o->kind == CONFIG_STRING) {
		char text[VALUE_MAX];
		if (!unquote(l, value, text))
			return refuse_value(l, o, value);
		rc = set_text(&l->config, o, text);
	} else {
		rc = o->kind == CONFIG_BOOL  ? parse_bool(l, o, value, &v)
		     : o->kind == CONFIG_INT ? parse_int(l, o, value, &v)
					     : parse_word(l, o, value, &v);
		if (!rc && o->build)
			rc = assign_build(l, o, v);
		else if (!rc && o->kind != CONFIG_ENUM)
			set_number(&l->config, o, v);
	}
	if (rc)
		return rc;
	s->line = l->line;
	s->word = (int)v;
	note_origin(l, index);
	return 0;
}

/* At the end of a layer: what its forms together say about each enumeration. */
static int settle_enums(struct load *l)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		const struct said *s = &l->said[i];
		if (o->kind != CONFIG_ENUM || (!s->line && !s->yes && !s->no))
			continue;
		int word = s->line ? s->word : s->yes ? __builtin_ctz(s->yes) : (int)number_of(&l->config, o);
		l->line = s->line > s->yes_line ? s->line : s->yes_line;
		if (s->line && s->yes && s->yes != UINT32_C(1) << word)
			return refuse(l, "%s%s=\"%s\" in line %u contradicts the choice of \"%s\" in line %u; keep one",
				      PREFIX, o->key, o->words[word], s->line, o->words[__builtin_ctz(s->yes)],
				      s->yes_line);
		if (s->no & UINT32_C(1) << word) {
			l->line = s->member_line[word];
			return refuse(l,
				      "%s%s is \"%s\", but here that choice is not set; set %s%s to the word you want",
				      PREFIX, o->key, o->words[word], PREFIX, o->key);
		}
		if (!s->line && !s->yes)
			continue;
		set_number(&l->config, o, word);
		note_origin(l, i);
	}
	return 0;
}

static int assign(struct load *l, const char *key, const char *value)
{
	struct target t;
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < ' ' && *p != '\t')
			return refuse(l, "the value has a control character in it");
	if (!find(key, &t))
		return refuse_key(l, key);
	return t.word < 0 ? assign_key(l, t.index, value) : assign_member(l, t, value);
}

/* "# CONFIG_X is not set" is how Kconfig writes CONFIG_X=n; every other comment is one. */
static int read_comment(struct load *l, char *line)
{
	static const char tail[] = " is not set";
	size_t n = strlen(line), skip = strlen("# " PREFIX);
	struct target t;
	if (strncmp(line, "# " PREFIX, skip) != 0 || n < skip + strlen(tail) ||
	    strcmp(line + n - strlen(tail), tail) != 0)
		return 0;
	line[n - strlen(tail)] = '\0';
	if (strchr(line + skip, ' '))
		return 0;
	if (find(line + skip, &t) && t.word < 0 && config_options[t.index].kind != CONFIG_BOOL)
		return refuse(l, "%s is no yes-or-no option; to leave it at its default, leave the line out", line + 2);
	return assign(l, line + skip, "n");
}

static int read_line(struct load *l, char *line, size_t n)
{
	if (memchr(line, '\0', n))
		return refuse(l, "there is a NUL byte in this line");
	while (n && strchr(" \t\r", line[n - 1]))
		line[--n] = '\0';
	line += strspn(line, " \t");
	if (!*line)
		return 0;
	if (*line == '#')
		return read_comment(l, line);
	char *eq = strchr(line, '=');
	if (strncmp(line, PREFIX, PREFIX_LEN) != 0 || !eq)
		return refuse(
			l, "\"%.64s\" is no assignment; a line is %sKEY=VALUE, a comment that begins with #, or empty",
			line, PREFIX);
	*eq = '\0';
	return assign(l, line + PREFIX_LEN, eq + 1);
}

/* ---- layers ------------------------------------------------------------------------------------------------------ */

/* Opens what can be read to its end at once: a pipe would keep a reload, and with it the main thread, waiting for its writer. */
static FILE *open_file(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	int err = fstat(fd, &st) ? errno : S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) ? ESPIPE : 0;
	FILE *f = err ? NULL : fdopen(fd, "r");
	if (!f) {
		err = err ? err : errno;
		close(fd);
		errno = err;
	}
	return f;
}

/* The whole file, which the caller frees, and its length; NULL with errno set when it cannot be read or is too long. */
static char *slurp(const char *path, size_t *ret_n)
{
	FILE *f = open_file(path);
	char *text = f ? malloc(FILE_MAX + 1) : NULL;
	int err = errno;
	if (text) {
		errno = 0;
		*ret_n = fread(text, 1, FILE_MAX + 1, f);
		err = ferror(f) ? errno : *ret_n > FILE_MAX ? EFBIG : 0;
		if (ferror(f) || err) {
			free(text);
			text = NULL;
		}
	}
	if (f)
		fclose(f);
	errno = err ? err : EIO;
	return text;
}

static int read_file(struct load *l, const char *path)
{
	size_t n = 0;
	char *text = slurp(path, &n);
	if (!text) {
		int err = errno;
		snprintf(l->why->text, sizeof l->why->text, "cannot read the configuration %.300s: %s", path,
			 err == ESPIPE ? "it is a pipe, and has to be a file" : strerror(err));
		return -err;
	}
	int rc = 0;
	l->file = path;
	l->line = 0;
	text[n] = '\0';
	for (char *p = text, *end = text + n, *next; p < end && !rc; p = next) {
		char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t len = (size_t)((newline ? newline : end) - p);
		next = p + len + 1;
		p[len] = '\0';
		l->line++;
		rc = read_line(l, p, len);
	}
	free(text);
	return rc ? rc : settle_enums(l);
}

/* Of two overrides of one key the later wins, so each is a layer of its own. */
static int read_override(struct load *l, const char *override)
{
	char key[128];
	const char *name = strncmp(override, PREFIX, PREFIX_LEN) == 0 ? override + PREFIX_LEN : override;
	const char *eq = strchr(name, '=');
	size_t n = eq ? (size_t)(eq - name) : 0;
	memset(l->said, 0, config_option_count * sizeof *l->said);
	l->file = NULL;
	l->line = 1;
	l->override = override;
	if (!n || n >= sizeof key)
		return refuse(l, "this is no KEY=VALUE");
	memcpy(key, name, n);
	key[n] = '\0';
	int rc = assign(l, key, eq + 1);
	return rc ? rc : settle_enums(l);
}

int config_load(struct config *ret, const char *file, const char *const *overrides, size_t n, struct config_error *why)
{
	struct load l = {.why = why};
	int rc = -ENOMEM;
	snprintf(why->text, sizeof why->text, "out of memory");
	l.origins = calloc(config_option_count, sizeof *l.origins);
	l.said = calloc(config_option_count, sizeof *l.said);
	if (l.origins && l.said)
		rc = set_defaults(&l.config);
	if (!rc && file)
		rc = read_file(&l, file);
	for (size_t i = 0; i < n && !rc; i++)
		rc = read_override(&l, overrides[i]);
	if (!rc)
		config_settle(&l.config, l.origins);
	if (!rc)
		rc = config_check_origins(&l.config, l.origins, why);
	if (rc)
		config_done(&l.config);
	else
		*ret = l.config;
	free(l.said);
	free(l.origins);
	return rc;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static void print_quoted(const char *s, FILE *f)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
	fputc('"', f);
}

static void print_members(const struct config_option *o, int chosen, FILE *f)
{
	for (int w = 0; o->words[w]; w++) {
		fputs(w == chosen ? PREFIX : "# " PREFIX, f);
		fprintf(f, "%s_", o->key);
		for (const char *p = o->words[w]; *p; p++)
			fputc(toupper((unsigned char)*p), f);
		fputs(w == chosen ? "=y\n" : " is not set\n", f);
	}
}

void config_dump(const struct config *c, FILE *f)
{
	const char *menu = "";
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (strcmp(menu, o->menu) != 0)
			fprintf(f, "%s#\n# %s\n#\n", *menu ? "\n" : "", o->menu);
		menu = o->menu;
		switch (o->kind) {
		case CONFIG_BOOL:
			fprintf(f, number_of(c, o) ? "%s%s=y\n" : "# %s%s is not set\n", PREFIX, o->key);
			break;
		case CONFIG_INT:
			fprintf(f, "%s%s=%" PRId64 "\n", PREFIX, o->key, number_of(c, o));
			break;
		case CONFIG_STRING:
			fprintf(f, "%s%s=", PREFIX, o->key);
			print_quoted(text_of(c, o), f);
			fputc('\n', f);
			break;
		case CONFIG_ENUM:
			print_members(o, (int)number_of(c, o), f);
			fprintf(f, "%s%s=\"%s\"\n", PREFIX, o->key, o->words[number_of(c, o)]);
			break;
		}
	}
}

void config_help(FILE *f)
{
	const char *menu = "";
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		if (o->build)
			continue;
		if (strcmp(menu, o->menu) != 0)
			fprintf(f, "%s\n", o->menu);
		menu = o->menu;
		fprintf(f, "  %-20s %s (", o->key, o->prompt);
		if (o->kind == CONFIG_BOOL)
			fprintf(f, "y or n; default %c", o->def_int ? 'y' : 'n');
		else if (o->kind == CONFIG_INT)
			fprintf(f, "%" PRId64 " to %" PRId64 "; default %" PRId64, o->min, o->max, o->def_int);
		else if (o->kind == CONFIG_STRING)
			fprintf(f, "default \"%s\"", o->def_text);
		for (int w = 0; o->kind == CONFIG_ENUM && o->words[w]; w++)
			fprintf(f, "%s%s", w ? ", " : "", o->words[w]);
		if (o->kind == CONFIG_ENUM)
			fprintf(f, "; default %s", o->words[o->def_int]);
		fputs(")\n", f);
	}
}

unsigned config_changes(const struct config *from, const struct config *to,
			void (*changed)(void *ctx, const struct config_option *o), void *ctx)
{
	unsigned n = 0;
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		bool same = o->kind == CONFIG_STRING ? strcmp(text_of(from, o), text_of(to, o)) == 0
						     : number_of(from, o) == number_of(to, o);
		if (!same) {
			n++;
			changed(ctx, o);
		}
	}
	return n;
}
