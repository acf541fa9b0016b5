/* Header blocks of the HTTP/2 client.
 *
 * Out: the first block of a connection inserts each of its fields into the server's dynamic table; every later one with the same method and
 * timeout is a handful of indexed fields, kept ready-made and copied. The index of an entry moves whenever another is inserted
 * (RFC 7541 section 2.3.3), so ready-made blocks are dropped then. In: decoding is rpc/wire/hpack, with its memo of the last few blocks.
 * Runs on the client's thread; pure but for that state. */
#include "rpc/client/h2c.h"

#include "core/base/clock.h"

#include <errno.h>

/* RFC 7541 appendix A. */
enum { STATIC_METHOD_POST = 3, STATIC_SCHEME_HTTP = 6, STATIC_SCHEME_HTTPS = 7, STATIC_LAST = 61 };
enum { TABLE_MAX = 4096, ENTRY_OVERHEAD = 32 };
enum { FIELDS_MAX = 100 };

void h2c_encoder_init(struct h2c_encoder *e, bool https)
{
	*e = (struct h2c_encoder){.limit = TABLE_MAX, .https = https};
}

void h2c_encoder_resize(struct h2c_encoder *e, uint32_t size)
{
	if (size > TABLE_MAX)
		size = TABLE_MAX;
	if (size == e->limit)
		return;
	*e = (struct h2c_encoder){.limit = size, .resize = true, .https = e->https};
}

struct writer {
	uint8_t *p;
	size_t n;
	bool full, impure;
};

static void wrote(struct writer *w, size_t n)
{
	w->n += n;
	if (n == 0)
		w->full = true;
}

static void put_indexed(struct writer *w, unsigned index)
{
	wrote(w, hpack_put_indexed(w->p + w->n, H2_HEAD_MAX - w->n, index));
}

/* A field that deserves an entry; `entry` remembers which. */
static void put_field(struct h2c_encoder *e, struct writer *w, uint32_t *entry, struct span name, struct span value)
{
	if (*entry) {
		put_indexed(w, STATIC_LAST + 1 + (e->inserted - *entry));
		return;
	}
	size_t size = name.n + value.n + ENTRY_OVERHEAD;
	if (e->bytes + size > e->limit) {
		wrote(w, hpack_put_literal(w->p + w->n, H2_HEAD_MAX - w->n, name, value));
		return;
	}
	wrote(w, hpack_put_incremental(w->p + w->n, H2_HEAD_MAX - w->n, name, value));
	e->bytes += (uint32_t)size;
	*entry = ++e->inserted;
	w->impure = true;
	memset(e->block, 0, sizeof e->block);
}

static void put_timeout(struct h2c_encoder *e, struct writer *w, uint64_t timeout_ns)
{
	static const struct span name = SPAN_LIT("grpc-timeout");
	char text[10];
	struct span value = {(const uint8_t *)text, grpc_timeout_put(text, timeout_ns)};
	for (int i = 0; i < H2_TIMEOUTS; i++) {
		if (e->timeout[i].ns == timeout_ns || e->timeout[i].ns == 0) {
			e->timeout[i].ns = timeout_ns;
			put_field(e, w, &e->timeout[i].entry, name, value);
			return;
		}
	}
	wrote(w, hpack_put_literal(w->p + w->n, H2_HEAD_MAX - w->n, name, value));
}

/* RFC 7541 section 6.3: both sizes must be said, the smallest first; 0 empties the table. */
static void put_resize(struct h2c_encoder *e, struct writer *w)
{
	w->p[w->n++] = 0x20;
	if (e->limit < 31) {
		w->p[w->n++] = (uint8_t)(0x20 | e->limit);
	} else {
		uint32_t v = e->limit - 31;
		w->p[w->n++] = 0x3f;
		for (; v >= 128; v >>= 7)
			w->p[w->n++] = (uint8_t)(v | 0x80);
		w->p[w->n++] = (uint8_t)v;
	}
	e->resize = false;
	w->impure = true;
}

/* The block has no place among the ready-made ones. */
static void put_other_path(struct writer *w, struct span path)
{
	wrote(w, hpack_put_literal(w->p + w->n, H2_HEAD_MAX - w->n, SPAN_LIT(":path"), path));
	w->impure = true;
}

const uint8_t *h2c_encoder_head(struct h2c_encoder *e, unsigned method, struct span path, const char *authority,
				const char *bearer, uint64_t timeout_ns, uint8_t *scratch, size_t *ret_n)
{
	struct h2c_block *known = &e->block[method];
	if (likely(known->n && known->timeout_ns == timeout_ns)) {
		*ret_n = known->n;
		return known->bytes;
	}
	struct writer w = {.p = scratch};
	if (e->resize)
		put_resize(e, &w);
	put_indexed(&w, STATIC_METHOD_POST);
	put_indexed(&w, e->https ? STATIC_SCHEME_HTTPS : STATIC_SCHEME_HTTP);
	if (likely(path.n == 0))
		put_field(e, &w, &e->path[method], SPAN_LIT(":path"), method_path(method));
	else
		put_other_path(&w, path);
	put_field(e, &w, &e->authority, SPAN_LIT(":authority"),
		  (struct span){(const uint8_t *)authority, strlen(authority)});
	put_field(e, &w, &e->te, SPAN_LIT("te"), SPAN_LIT("trailers"));
	put_field(e, &w, &e->content_type, SPAN_LIT("content-type"), SPAN_LIT("application/grpc"));
	put_field(e, &w, &e->user_agent, SPAN_LIT("user-agent"), SPAN_LIT("ordinal"));
	if (bearer)
		put_field(e, &w, &e->authorization, SPAN_LIT("authorization"),
			  (struct span){(const uint8_t *)bearer, strlen(bearer)});
	if (timeout_ns)
		put_timeout(e, &w, timeout_ns);
	CHECK(!w.full);
	if (!w.impure && w.n <= sizeof known->bytes) {
		known->timeout_ns = timeout_ns;
		known->n = (uint32_t)w.n;
		memcpy(known->bytes, scratch, w.n);
	}
	*ret_n = w.n;
	return scratch;
}

struct read_ctx {
	struct h2c_head_reader *reader;
	struct h2c_head *head;
};

/* Digits only, at most four; -1: not a number. */
static int32_t small_number(struct span s)
{
	int32_t v = 0;
	if (s.n == 0 || s.n > 4)
		return -1;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return -1;
		v = v * 10 + (s.p[i] - '0');
	}
	return v;
}

static int on_field(void *opaque, struct span name, struct span value)
{
	static const struct span grpc_type = SPAN_LIT("application/grpc");
	struct read_ctx *c = opaque;
	if (++c->reader->fields > FIELDS_MAX)
		return -E2BIG;
	if (span_eq(name, SPAN_LIT(":status"))) {
		int32_t v = small_number(value);
		c->head->http = v < 0 ? 0 : (uint16_t)v;
	} else if (span_eq(name, SPAN_LIT("grpc-status"))) {
		c->head->status = (int32_t)grpc_status_get(value);
	} else if (span_eq(name, SPAN_LIT("content-type"))) {
		c->head->is_grpc = value.n >= grpc_type.n && memcmp(value.p, grpc_type.p, grpc_type.n) == 0;
	} else if (span_eq(name, SPAN_LIT("grpc-message"))) {
		c->head->has_text = true;
		c->reader->text_n = grpc_percent_decode(c->reader->text, sizeof c->reader->text, value);
	}
	return 0;
}

int h2c_head_read(struct h2c_head_reader *r, const uint8_t *block, size_t n, struct h2c_head *ret)
{
	const struct h2c_head *known = hpack_memo_find(r->memo, hpack_generation(r->decoder), block, n);
	if (likely(known != NULL)) {
		*ret = *known;
		return 0;
	}
	*ret = (struct h2c_head){.status = -1};
	r->fields = 0;
	r->text_n = 0;
	int rc = hpack_decode(r->decoder, block, n, on_field, &(struct read_ctx){r, ret});
	/* The text lives in the reader, so a block that has one is decoded anew each time. */
	if (rc == 0 && !ret->has_text)
		hpack_memo_put(r->memo, hpack_generation(r->decoder), block, n, ret);
	return rc;
}
