/* The rules of access: their file, and the questions that are asked of them; see the header. Read-only once parsed; any thread.
 *
 * A principal's number is the beginning of the digest of its credential (of "cert:NAME" for certificates), so it outlives a reload of the file. That
 * two credentials of a file have equal numbers is refused when it is read; it does not happen. What a token proves is decided on the
 * whole digest.
 *
 * Digests are found by a table of groups. A secret number, drawn when the file is read, decides which group a digest belongs to, so that nobody can
 * choose tokens that meet in one group. `order` lists the principals group by group, and group g begins at order[begin[g]]. A search compares `ways`
 * digests from there on, which is the size of the largest group: the same number of comparisons for every token, good or wrong, and the same however many
 * rules there are. Entries of a following group do no harm, because whole digests are compared.
 */
#include "rpc/access.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILE_MAX = 16 << 20 };

struct right {
	uint8_t right; /* enum access_right */
	uint16_t n;
	const char *pattern;
};

struct principal {
	uint64_t who;
	char *name;
	bool is_token;
	uint8_t digest[ACCESS_DIGEST]; /* of the token, or of "cert:NAME" */
	int64_t until_s;               /* Unix time; 0: for ever */
	unsigned rights;
	struct right *right;
	char *patterns; /* what they point into */
};

struct access {
	atomic_uint refs;
	unsigned count;
	struct principal *principal; /* sorted by who */
	uint64_t secret[2];          /* of the table of digests */
	uint32_t groups, ways;       /* groups: a power of two */
	uint32_t *begin;             /* by group */
	uint32_t *order;             /* numbers of principals, and `ways` more at the end */
};

/* Reading. */

static _Thread_local char why[640];

struct reader {
	const char *path;
	unsigned line;
	struct access *a;
	unsigned cap;
};

static int __attribute__((format(printf, 2, 3))) refuse(const struct reader *r, const char *fmt, ...)
{
	va_list ap;
	int n = r->line ? snprintf(why, sizeof why, "%.200s:%u: ", r->path, r->line)
			: snprintf(why, sizeof why, "%.200s: ", r->path);
	va_start(ap, fmt);
	vsnprintf(why + n, sizeof why - (size_t)n, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* The next word of a line, without its quotes; 0 at the end or a comment, 1, or -EINVAL. */
static int next_word(const struct reader *r, struct span *line, char word[ACCESS_WORD_MAX + 1])
{
	size_t n = 0;
	bool quoted = false;
	while (line->n && (*line->p == ' ' || *line->p == '\t' || *line->p == '\r'))
		line->p++, line->n--;
	if (line->n == 0 || *line->p == '#')
		return 0;
	for (; line->n; line->p++, line->n--) {
		uint8_t c = *line->p;
		if (c == '"') {
			quoted = !quoted;
			continue;
		}
		if (!quoted && (c == ' ' || c == '\t' || c == '\r'))
			break;
		if (c < 0x20 || c == 0x7f)
			return refuse(r, "a control character");
		if (n == ACCESS_WORD_MAX)
			return refuse(r, "a word of more than %d bytes", ACCESS_WORD_MAX);
		word[n++] = (char)c;
	}
	word[n] = 0;
	return quoted ? refuse(r, "a quote that is not closed") : 1;
}

static int hex_of(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

static bool digest_get(const char *hex, uint8_t ret[ACCESS_DIGEST])
{
	if (strlen(hex) != 2 * ACCESS_DIGEST)
		return false;
	for (unsigned i = 0; i < ACCESS_DIGEST; i++) {
		int hi = hex_of(hex[2 * i]), lo = hex_of(hex[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return false;
		ret[i] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

/* 2027-01-31 (its beginning) or 2027-01-31T12:00:00Z. */
static bool time_get(const char *s, int64_t *ret)
{
	struct tm tm = {0};
	const char *end = strptime(s, "%Y-%m-%d", &tm);
	if (end && *end == 'T')
		end = strptime(end + 1, "%H:%M:%SZ", &tm);
	if (!end || *end)
		return false;
	struct tm asked = tm;
	time_t t = timegm(&tm);
	*ret = t;
	/* timegm makes 2 March of 30 February; the file is to say what it means. */
	return t > 0 && tm.tm_mday == asked.tm_mday && tm.tm_mon == asked.tm_mon && tm.tm_sec == asked.tm_sec;
}

/* Numbers 0 and 1 mean something else. */
static uint64_t who_of(const uint8_t digest[ACCESS_DIGEST])
{
	uint64_t who = load_le64(digest);
	return who > ACCESS_WHO_UNKNOWN ? who : who + 2;
}

static int take_credential(const struct reader *r, struct principal *p, const char *word)
{
	if (strncmp(word, "sha256:", 7) == 0) {
		if (!digest_get(word + 7, p->digest))
			return refuse(r, "sha256: takes the 64 hexadecimal digits of a token's SHA-256 digest; "
					 "`ordinal token` makes both");
		p->is_token = true;
	} else if (strncmp(word, "cert:", 5) == 0 && word[5]) {
		SHA256((const uint8_t *)word, strlen(word), p->digest);
	} else {
		return refuse(r, "\"%.60s\" is no credential: sha256:DIGEST of a token, or cert:COMMON-NAME", word);
	}
	p->who = who_of(p->digest);
	return 0;
}

static const char *const words[] = {[ACCESS_IDS] = "ids:",
				    [ACCESS_PUBLISH] = "publish:",
				    [ACCESS_SUBSCRIBE] = "subscribe:",
				    [ACCESS_STATS] = "stats",
				    [ACCESS_ADMIN] = "admin"};

const char *access_right_word(enum access_right right)
{
	return words[right];
}

/* The patterns are kept in one block, which may move while it grows; so they are offsets until finish_rights. */
static int take_right(const struct reader *r, struct principal *p, const char *word, size_t *patterns)
{
	unsigned k = 0;
	size_t n = 0;
	if (strcmp(word, "*") == 0)
		word = words[ACCESS_ADMIN];
	for (; k < ARRAY_SIZE(words); k++) {
		n = strlen(words[k]);
		if (k <= ACCESS_SUBSCRIBE ? strncmp(word, words[k], n) == 0 : strcmp(word, words[k]) == 0)
			break;
	}
	if (k == ARRAY_SIZE(words))
		return refuse(r,
			      "\"%.60s\" is no right: ids:PATTERN, publish:PATTERN, subscribe:PATTERN, stats or admin",
			      word);
	if (p->rights == ACCESS_RIGHTS_MAX)
		return refuse(r, "more than %d rights", ACCESS_RIGHTS_MAX);
	size_t len = strlen(word + n);
	struct right *more = realloc(p->right, (p->rights + 1) * sizeof *more);
	if (more)
		p->right = more;
	char *bytes = realloc(p->patterns, *patterns + len + 1);
	if (bytes)
		p->patterns = bytes;
	if (!more || !bytes)
		return -ENOMEM;
	memcpy(p->patterns + *patterns, word + n, len + 1);
	*patterns += len + 1;
	p->right[p->rights++] = (struct right){.right = (uint8_t)k, .n = (uint16_t)len};
	return 0;
}

static void finish_rights(struct principal *p)
{
	const char *at = p->patterns;
	for (unsigned i = 0; i < p->rights; i++) {
		p->right[i].pattern = at;
		at += p->right[i].n + 1;
	}
}

static int take_line(struct reader *r, struct span line)
{
	char word[ACCESS_WORD_MAX + 1] = "";
	size_t patterns = 0;
	int rc = next_word(r, &line, word);
	if (rc <= 0)
		return rc;
	if (r->a->count == ACCESS_PRINCIPALS_MAX)
		return refuse(r, "more than %d rules", ACCESS_PRINCIPALS_MAX);
	if (r->a->count == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 16;
		struct principal *more = realloc(r->a->principal, r->cap * sizeof *more);
		if (!more)
			return -ENOMEM;
		r->a->principal = more;
	}
	struct principal *p = &r->a->principal[r->a->count++];
	*p = (struct principal){.name = strdup(word)};
	if (!p->name)
		return -ENOMEM;
	rc = next_word(r, &line, word);
	if (rc <= 0)
		return rc ? rc : refuse(r, "\"%.60s\" has no credential: sha256:DIGEST or cert:COMMON-NAME", p->name);
	rc = take_credential(r, p, word);
	while (rc == 0 && (rc = next_word(r, &line, word)) == 1) {
		if (strncmp(word, "until:", 6) != 0)
			rc = take_right(r, p, word, &patterns);
		else
			rc = time_get(word + 6, &p->until_s)
				     ? 0
				     : refuse(r, "until: takes a day or a time in UTC, as in until:2027-01-31 or "
						 "until:2027-01-31T12:00:00Z");
	}
	finish_rights(p);
	return rc;
}

/* The table of digests. */

enum { WAYS_MAX = 8 };

static uint32_t group_of(const struct access *a, const uint8_t digest[ACCESS_DIGEST])
{
	uint64_t h = (load_le64(digest) ^ a->secret[0]) * (a->secret[1] | 1);
	h ^= load_le64(digest + 8);
	h *= a->secret[1] | 1;
	return (uint32_t)(h >> 32) & (a->groups - 1);
}

/* Sorts the principals into the groups by counting. */
static int fill_groups(struct access *a)
{
	free(a->begin);
	free(a->order);
	a->begin = calloc(a->groups + 1, sizeof *a->begin);
	a->order = calloc(a->count + WAYS_MAX, sizeof *a->order);
	if (!a->begin || !a->order)
		return -ENOMEM;
	for (unsigned i = 0; i < a->count; i++)
		a->begin[group_of(a, a->principal[i].digest)]++;
	a->ways = 1;
	for (uint32_t g = 0, at = 0; g < a->groups; g++) {
		uint32_t n = a->begin[g];
		a->ways = n > a->ways ? n : a->ways;
		a->begin[g] = at += n;
	}
	for (unsigned i = 0; i < a->count; i++)
		a->order[--a->begin[group_of(a, a->principal[i].digest)]] = i;
	return 0;
}

/* Doubles the number of groups until the largest has WAYS_MAX. As digests are spread evenly, one attempt is nearly always enough. */
static int make_table(struct access *a)
{
	int rc;
	if (getrandom(a->secret, sizeof a->secret, 0) != (ssize_t)sizeof a->secret)
		return -errno;
	a->groups = 1;
	while (a->groups < a->count)
		a->groups *= 2;
	while ((rc = fill_groups(a)) == 0 && a->ways > WAYS_MAX)
		a->groups *= 2;
	return rc;
}

static int by_who(const void *a, const void *b)
{
	const struct principal *x = a, *y = b;
	return x->who < y->who ? -1 : x->who > y->who;
}

static int settle(struct reader *r)
{
	struct access *a = r->a;
	r->line = 0;
	if (a->count == 0)
		return refuse(
			r,
			"there is no rule in it, which would shut everybody out; without ACCESS_FILE everybody may do everything");
	qsort(a->principal, a->count, sizeof *a->principal, by_who);
	for (unsigned i = 1; i < a->count; i++) {
		if (a->principal[i].who == a->principal[i - 1].who)
			return refuse(r, "\"%.60s\" and \"%.60s\" have the same credential", a->principal[i - 1].name,
				      a->principal[i].name);
	}
	return make_table(a);
}

int access_parse(struct span text, const char *path, struct access **ret, const char **ret_why)
{
	struct access *a = calloc(1, sizeof *a);
	struct reader r = {.path = path, .a = a};
	int rc = a ? 0 : -ENOMEM;
	while (rc == 0 && text.n) {
		const uint8_t *end = memchr(text.p, '\n', text.n);
		size_t n = end ? (size_t)(end - text.p) : text.n;
		r.line++;
		rc = take_line(&r, (struct span){text.p, n});
		text.p += n + (end != NULL);
		text.n -= n + (end != NULL);
	}
	if (rc == 0)
		rc = settle(&r);
	if (rc) {
		*ret_why = rc == -EINVAL ? why : strerror(-rc);
		if (a)
			a->refs = 1;
		access_put(a);
		return rc;
	}
	a->refs = 1;
	*ret = a;
	return 0;
}

static int read_all(int fd, char **ret, size_t *ret_n)
{
	size_t n = 0, cap = 65536;
	char *p = malloc(cap), *more;
	ssize_t got = 0;
	while (p && (got = read(fd, p + n, cap - n)) > 0) {
		n += (size_t)got;
		if (n < cap)
			continue;
		if (n >= FILE_MAX) {
			free(p);
			return -EFBIG;
		}
		more = realloc(p, cap *= 2);
		if (!more)
			free(p);
		p = more;
	}
	if (!p)
		return -ENOMEM;
	if (got < 0) {
		int rc = -errno;
		free(p);
		return rc;
	}
	*ret = p;
	*ret_n = n;
	return 0;
}

int access_load(const char *path, struct access **ret, const char **ret_why)
{
	struct stat st = {0};
	char *text = NULL;
	size_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 || fstat(fd, &st) ? -errno : 0;
	struct reader r = {.path = path};
	if (rc == 0 && (st.st_mode & S_IWOTH)) {
		rc = refuse(&r, "everybody may write to it: chmod o-w");
		*ret_why = why;
		close(fd);
		return rc;
	}
	if (rc == 0)
		rc = read_all(fd, &text, &n);
	if (fd >= 0)
		close(fd);
	if (rc) {
		refuse(&r, "ACCESS_FILE cannot be read: %s", strerror(-rc));
		*ret_why = why;
		return rc;
	}
	rc = access_parse((struct span){(uint8_t *)text, n}, path, ret, ret_why);
	OPENSSL_cleanse(text, n);
	free(text);
	return rc;
}

struct access *access_get(struct access *a)
{
	if (a)
		atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
	return a;
}

void access_put(struct access *a)
{
	/* Pairs with the other puts: who frees it sees all that was done with it. */
	if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned i = 0; i < a->count; i++) {
		free(a->principal[i].name);
		free(a->principal[i].right);
		free(a->principal[i].patterns);
	}
	free(a->principal);
	free(a->begin);
	free(a->order);
	free(a);
}

unsigned access_count(const struct access *a)
{
	return a->count;
}

/* Who. */

void access_digest(struct span token, uint8_t ret[ACCESS_DIGEST])
{
	SHA256(token.p, token.n, ret);
}

uint64_t access_who_digest(const struct access *a, const uint8_t digest[ACCESS_DIGEST])
{
	uint64_t who = ACCESS_WHO_UNKNOWN;
	const uint32_t *order = a->order + a->begin[group_of(a, digest)];
	for (uint32_t i = 0; i < a->ways; i++) {
		const struct principal *p = &a->principal[order[i]];
		uint64_t same = (CRYPTO_memcmp(p->digest, digest, ACCESS_DIGEST) == 0) & p->is_token;
		who ^= (who ^ p->who) & (0 - same);
	}
	return who;
}

uint64_t access_who_token(const struct access *a, struct span token)
{
	uint8_t digest[ACCESS_DIGEST];
	access_digest(token, digest);
	return access_who_digest(a, digest);
}

static const struct principal *find(const struct access *a, uint64_t who)
{
	unsigned low = 0, high = a->count;
	while (low < high) {
		unsigned mid = low + (high - low) / 2;
		if (a->principal[mid].who < who)
			low = mid + 1;
		else
			high = mid;
	}
	return low < a->count && a->principal[low].who == who ? &a->principal[low] : NULL;
}

uint64_t access_who_certificate(const struct access *a, const char *common_name)
{
	uint8_t digest[ACCESS_DIGEST];
	char credential[5 + ACCESS_WORD_MAX + 1];
	if (!*common_name)
		return ACCESS_WHO_NOBODY;
	int n = snprintf(credential, sizeof credential, "cert:%s", common_name);
	if (n < 0 || (size_t)n >= sizeof credential)
		return ACCESS_WHO_UNKNOWN;
	SHA256((const uint8_t *)credential, (size_t)n, digest);
	const struct principal *p = find(a, who_of(digest));
	return p && !p->is_token && memcmp(p->digest, digest, ACCESS_DIGEST) == 0 ? p->who : ACCESS_WHO_UNKNOWN;
}

bool access_bearer(struct span value, struct span *ret_token)
{
	static const char scheme[] = "bearer ";
	size_t n = sizeof scheme - 1;
	if (value.n <= n || strncasecmp((const char *)value.p, scheme, n) != 0)
		return false;
	while (n < value.n && value.p[n] == ' ')
		n++;
	*ret_token = (struct span){value.p + n, value.n - n};
	return ret_token->n > 0 && ret_token->n <= ACCESS_TOKEN_MAX;
}

/* May. */

bool access_matches(struct span pattern, struct span name)
{
	size_t p = 0, n = 0, star = SIZE_MAX, from = 0;
	while (n < name.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			from = n;
		} else if (p < pattern.n && (pattern.p[p] == '?' || pattern.p[p] == name.p[n])) {
			p++;
			n++;
		} else if (star != SIZE_MAX) { /* the last star takes one byte more */
			p = star + 1;
			n = ++from;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

static enum access_verdict known(const struct access *a, uint64_t who, const struct principal **ret)
{
	if (who == ACCESS_WHO_NOBODY)
		return ACCESS_ANONYMOUS;
	const struct principal *p = find(a, who);
	if (!p)
		return ACCESS_UNKNOWN;
	if (p->until_s && clock_wall_ns() / (int64_t)NS_PER_S >= p->until_s)
		return ACCESS_EXPIRED;
	*ret = p;
	return ACCESS_OK;
}

enum access_verdict access_check_known(const struct access *a, uint64_t who)
{
	const struct principal *p;
	return known(a, who, &p);
}

enum access_verdict access_check(const struct access *a, uint64_t who, enum access_right right, struct span name)
{
	const struct principal *p;
	enum access_verdict v = known(a, who, &p);
	if (v)
		return v;
	bool fits = name.n <= ACCESS_NAME_MAX;
	for (unsigned i = 0; i < p->rights; i++) {
		const struct right *r = &p->right[i];
		if (r->right == ACCESS_ADMIN)
			return ACCESS_OK;
		if (r->right == right &&
		    (right > ACCESS_SUBSCRIBE ||
		     (fits && access_matches((struct span){(const uint8_t *)r->pattern, r->n}, name))))
			return ACCESS_OK;
	}
	return ACCESS_DENIED;
}

const char *access_name(const struct access *a, uint64_t who)
{
	const struct principal *p = find(a, who);
	return p ? p->name : "";
}

/* The rules in force. */

void access_source_set(struct access_source *s, struct access *fresh)
{
	pthread_mutex_lock(&s->lock);
	struct access *old = s->now;
	s->now = fresh;
	/* Only a hint to look: what it announces is read under the lock. */
	atomic_fetch_add_explicit(&s->generation, 1, memory_order_relaxed);
	pthread_mutex_unlock(&s->lock);
	access_put(old);
}

struct access *access_source_get(struct access_source *s, uint32_t *ret_generation)
{
	pthread_mutex_lock(&s->lock);
	struct access *a = access_get(s->now);
	*ret_generation = atomic_load_explicit(&s->generation, memory_order_relaxed);
	pthread_mutex_unlock(&s->lock);
	return a;
}
