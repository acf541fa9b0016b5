/* A recursive parser, at most DEPTH_MAX deep. Nodes name each other by index, so that the array may move while it grows. Pure. */
#include "tools/jread.h"

#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>

enum { DEPTH_MAX = 64, NUMBER_MAX = 63 };

struct parser {
	const uint8_t *p, *end;
	struct jread *j;
	int err;
};

static int parse_value(struct parser *s, unsigned depth, uint32_t *ret);

static void skip_space(struct parser *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
		s->p++;
}

static bool take(struct parser *s, char c)
{
	skip_space(s);
	if (s->p == s->end || *s->p != (uint8_t)c)
		return false;
	s->p++;
	return true;
}

static int node_new(struct parser *s, uint32_t *ret)
{
	struct jread *j = s->j;
	if (j->n == j->cap) {
		uint32_t cap = j->cap ? j->cap * 2 : 256;
		struct jread_node *grown = realloc(j->node, cap * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		j->node = grown;
		j->cap = cap;
	}
	j->node[j->n] = (struct jread_node){0};
	*ret = j->n++;
	return 0;
}

/* After the opening quote. */
static int parse_string(struct parser *s, struct span *ret)
{
	const uint8_t *from = s->p;
	while (s->p < s->end && *s->p != '"') {
		if (*s->p < 0x20 || (*s->p == '\\' && ++s->p == s->end))
			return -EBADMSG;
		s->p++;
	}
	if (s->p == s->end)
		return -EBADMSG;
	*ret = (struct span){from, (size_t)(s->p++ - from)};
	return 0;
}

static int parse_number(struct parser *s, double *ret)
{
	char text[NUMBER_MAX + 1], *stop;
	size_t n = 0;
	while (s->p < s->end && n < NUMBER_MAX && *s->p && strchr("+-.0123456789eE", *s->p))
		text[n++] = (char)*s->p++;
	text[n] = 0;
	*ret = strtod(text, &stop);
	return n > 0 && *stop == 0 ? 0 : -EBADMSG;
}

static int parse_word(struct parser *s, enum jread_type *ret)
{
	static const struct {
		struct span text;
		enum jread_type type;
	} words[] = {{SPAN_LIT("null"), JREAD_NULL}, {SPAN_LIT("false"), JREAD_FALSE}, {SPAN_LIT("true"), JREAD_TRUE}};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t n = words[i].text.n;
		if ((size_t)(s->end - s->p) >= n && memcmp(s->p, words[i].text.p, n) == 0) {
			s->p += n;
			*ret = words[i].type;
			return 0;
		}
	}
	return -EBADMSG;
}

/* The members of node `of`, after the opening bracket. */
static int parse_members(struct parser *s, unsigned depth, uint32_t of, bool keyed)
{
	char close = keyed ? '}' : ']';
	uint32_t last = 0;
	if (take(s, close))
		return 0;
	do {
		struct span key = {NULL, 0};
		uint32_t at;
		int r = 0;
		if (keyed)
			r = take(s, '"') ? parse_string(s, &key) : -EBADMSG;
		if (r == 0 && keyed && !take(s, ':'))
			r = -EBADMSG;
		if (r == 0)
			r = parse_value(s, depth + 1, &at);
		if (r)
			return r;
		s->j->node[at].key = key;
		if (last)
			s->j->node[last].next = at;
		else
			s->j->node[of].child = at;
		last = at;
	} while (take(s, ','));
	return take(s, close) ? 0 : -EBADMSG;
}

static int parse_value(struct parser *s, unsigned depth, uint32_t *ret)
{
	uint32_t at;
	if (depth > DEPTH_MAX)
		return -E2BIG;
	int r = node_new(s, &at);
	if (r)
		return r;
	*ret = at;
	skip_space(s);
	if (s->p == s->end)
		return -EBADMSG;
	if (*s->p == '{' || *s->p == '[') {
		const uint8_t *from = s->p;
		bool keyed = *s->p++ == '{';
		s->j->node[at].type = keyed ? JREAD_OBJECT : JREAD_ARRAY;
		r = parse_members(s, depth, at, keyed);
		s->j->node[at].text = (struct span){from, (size_t)(s->p - from)};
		return r;
	}
	if (*s->p == '"') {
		s->p++;
		s->j->node[at].type = JREAD_STRING;
		return parse_string(s, &s->j->node[at].text);
	}
	if (*s->p == '-' || (*s->p >= '0' && *s->p <= '9')) {
		s->j->node[at].type = JREAD_NUMBER;
		return parse_number(s, &s->j->node[at].number);
	}
	return parse_word(s, &s->j->node[at].type);
}

int jread_parse(struct span text, struct jread *ret)
{
	struct jread j = {0};
	struct parser s = {.p = text.p, .end = text.p + text.n, .j = &j};
	uint32_t top;
	int r = parse_value(&s, 0, &top);
	skip_space(&s);
	if (r == 0 && s.p != s.end)
		r = -EBADMSG;
	if (r)
		jread_done(&j);
	else
		*ret = j;
	return r;
}

void jread_done(struct jread *j)
{
	free(j->node);
	*j = (struct jread){0};
}

const struct jread_node *jread_first(const struct jread *j, const struct jread_node *of)
{
	return of && of->child ? &j->node[of->child] : NULL;
}

const struct jread_node *jread_next(const struct jread *j, const struct jread_node *n)
{
	return n->next ? &j->node[n->next] : NULL;
}

const struct jread_node *jread_find(const struct jread *j, const struct jread_node *of, struct span key)
{
	if (!of || of->type != JREAD_OBJECT)
		return NULL;
	for (const struct jread_node *n = jread_first(j, of); n; n = jread_next(j, n))
		if (span_eq(n->key, key))
			return n;
	return NULL;
}

const struct jread_node *jread_member(const struct jread *j, const struct jread_node *of, const char *key)
{
	return jread_find(j, of, (struct span){(const uint8_t *)key, strlen(key)});
}

double jread_number(const struct jread *j, const struct jread_node *of, const char *key)
{
	const struct jread_node *n = jread_member(j, of, key);
	return n && n->type == JREAD_NUMBER ? n->number : 0;
}

struct span jread_text(const struct jread *j, const struct jread_node *of, const char *key)
{
	const struct jread_node *n = jread_member(j, of, key);
	return n && n->type == JREAD_STRING ? n->text : (struct span){NULL, 0};
}
