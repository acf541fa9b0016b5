/* Reading JSON (RFC 8259) that a program of ours wrote, and nothing else: one pass into an array of nodes over the text. Pure; one owner. */
#ifndef ORDINAL_TOOLS_JREAD_H
#define ORDINAL_TOOLS_JREAD_H

#include "core/base/bytes.h"

enum jread_type { JREAD_NULL, JREAD_FALSE, JREAD_TRUE, JREAD_NUMBER, JREAD_STRING, JREAD_ARRAY, JREAD_OBJECT };

struct jread_node {
	enum jread_type type;
	uint32_t next;    /* the sibling after this; 0: none */
	uint32_t child;   /* of arrays and objects; 0: none */
	struct span key;  /* of members; as written, between the quotes */
	struct span text; /* as written: strings between the quotes; arrays and objects with their brackets */
	double number;
};

struct jread {
	struct jread_node *node; /* the first is the whole */
	uint32_t n, cap;
};

/* `text` must stay. 0; -EBADMSG: no JSON; -E2BIG: nested too deeply; -ENOMEM. jread_done is due after 0 only. */
int jread_parse(struct span text, struct jread *ret);
void jread_done(struct jread *j);

/* The member of an object; NULL: none (or `of` is NULL, or no object). */
const struct jread_node *jread_member(const struct jread *j, const struct jread_node *of, const char *key);
/* The same for a key given as bytes. */
const struct jread_node *jread_find(const struct jread *j, const struct jread_node *of, struct span key);
const struct jread_node *jread_first(const struct jread *j, const struct jread_node *of);
const struct jread_node *jread_next(const struct jread *j, const struct jread_node *n);
/* A number member's value; 0 if there is none. */
double jread_number(const struct jread *j, const struct jread_node *of, const char *key);
/* A string member's text as written; empty if there is none. */
struct span jread_text(const struct jread *j, const struct jread_node *of, const char *key);

#endif
