/* Who may do what: principals with rights, read from the file ACCESS_FILE. Without that file everybody may do everything; with it, what no rule
 * allows is refused.
 *
 * A line is a principal: a name, one credential, an optional end, and rights. '#' begins a comment; a word may be in double quotes.
 *
 *	billing  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  ids:invoice.*  ids:order
 *	ticker   sha256:…  until:2027-01-31T12:00:00Z  publish:ticks.*  subscribe:*
 *	probe    "cert:monitoring.example.org"         stats
 *	root     sha256:…  admin
 *
 * Credentials: sha256: the digest, in hex, of a bearer token; cert: the common name of a client certificate (mutual TLS: TLS_CLIENT_CA). Rights:
 * ids:PATTERN, publish:PATTERN and subscribe:PATTERN of sequences and streams, where '*' stands for any bytes and '?' for one (ids: alone is
 * the default sequence); stats, for figures over the network (rpc/svc_stats.h; the stats socket is guarded by its file's mode); admin, or '*', is
 * all of them.
 *
 * A set of rules is read-only and counted: any thread. Tokens are kept and compared as digests only, and each search compares the same small number of
 * digests, whether it finds one or not: so the time tells nothing, and wrong tokens cost no more where there are many rules. What a session keeps of a credential is a number (`who`) that means the same under later rules, or nothing under any.
 */
#ifndef ORDINAL_RPC_ACCESS_H
#define ORDINAL_RPC_ACCESS_H

#include "core/base/bytes.h"

#include <pthread.h>
#include <stdatomic.h>

#define ACCESS_DIGEST 32            /* SHA-256 */
#define ACCESS_TOKEN_MAX 512        /* bytes of a token; of the native framing, NATIVE_TOKEN_MAX */
#define ACCESS_PRINCIPALS_MAX 10000 /* lines */
#define ACCESS_RIGHTS_MAX 64        /* of a principal */
#define ACCESS_WORD_MAX 512         /* bytes of a name or a pattern */
#define ACCESS_NAME_MAX 128         /* bytes: no sequence or stream has a longer name, and no pattern is tried on one */

enum access_right { ACCESS_IDS, ACCESS_PUBLISH, ACCESS_SUBSCRIBE, ACCESS_STATS, ACCESS_ADMIN };
enum access_verdict {
	ACCESS_OK,
	ACCESS_ANONYMOUS, /* no credential was shown */
	ACCESS_UNKNOWN,   /* one that no rule has */
	ACCESS_EXPIRED,
	ACCESS_DENIED, /* a good one, without the right */
};

/* What `who` may be besides a principal's number. */
#define ACCESS_WHO_NOBODY 0  /* showed nothing */
#define ACCESS_WHO_UNKNOWN 1 /* showed something that is in no rule */

struct access;

/* 0; or -errno, with a sentence in ret_why (valid until the calling thread's next call) that names file, line and what would be accepted. A file that
 * everybody may write is refused, and one without any rule. */
int access_load(const char *path, struct access **ret, const char **ret_why);
/* The same from bytes; `path` is for the sentence. */
int access_parse(struct span text, const char *path, struct access **ret, const char **ret_why);
struct access *access_get(struct access *a);
void access_put(struct access *a);
unsigned access_count(const struct access *a);

/* SHA-256 of a token. */
void access_digest(struct span token, uint8_t ret[ACCESS_DIGEST]);
/* Whose credential this is: a number for access_check, or ACCESS_WHO_UNKNOWN. */
uint64_t access_who_digest(const struct access *a, const uint8_t digest[ACCESS_DIGEST]);
uint64_t access_who_token(const struct access *a, struct span token);
/* "": ACCESS_WHO_NOBODY. */
uint64_t access_who_certificate(const struct access *a, const char *common_name);
/* The token in the value of an authorization field, "Bearer TOKEN" (RFC 6750 section 2.1); false: there is none. */
bool access_bearer(struct span value, struct span *ret_token);

/* Whether `who` is anybody at all, now. */
enum access_verdict access_check_known(const struct access *a, uint64_t who);
/* Whether `who` has the right, now; `name` is the sequence or the stream (ACCESS_IDS, _PUBLISH, _SUBSCRIBE). A name of more than
 * ACCESS_NAME_MAX bytes is for administrators alone: what a client sends as a name may have megabytes. */
enum access_verdict access_check(const struct access *a, uint64_t who, enum access_right right, struct span name);
/* The name of a principal, or "". */
const char *access_name(const struct access *a, uint64_t who);
/* "ids:" …; of ACCESS_STATS and ACCESS_ADMIN the whole word. */
const char *access_right_word(enum access_right right);
/* '*' any bytes, '?' one byte. */
bool access_matches(struct span pattern, struct span name);

/* The rules in force: the main thread replaces them, every shard has a reference of its own and looks at `generation` once a turn. */
struct access_source {
	pthread_mutex_t lock;
	struct access *now;     /* under lock; NULL: none */
	atomic_uint generation; /* advances with each change */
};
#define ACCESS_SOURCE_INIT                                                                                             \
	{                                                                                                              \
		.lock = PTHREAD_MUTEX_INITIALIZER                                                                      \
	}
/* Takes over `fresh`. Main thread. */
void access_source_set(struct access_source *s, struct access *fresh);
/* A reference, or NULL. Any thread. */
struct access *access_source_get(struct access_source *s, uint32_t *ret_generation);

#endif
