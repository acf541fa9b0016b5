/* gzip of messages; see the header. Runs on the shard that owns the codec. A buffer is let go when a message needed more than KEEP. */
#include "rpc/gzip.h"
#include "core/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

enum { GZIP_MAGIC = 0x1f8b, GZIP_LEAST = 18, KEEP = 1 << 20, GZIP_WINDOW = 15 + 16, LEVEL = 1, MEM_LEVEL = 8 };

struct gzip {
	z_stream in, out;
	bool in_ready, out_ready;
	struct buffer {
		uint8_t *p;
		size_t cap;
	} in_buf, out_buf; /* apart: a handler answers from the message it was given */
};

struct gzip *gzip_new(void)
{
	return calloc(1, sizeof(struct gzip));
}

void gzip_free(struct gzip *g)
{
	if (!g)
		return;
	if (g->in_ready)
		inflateEnd(&g->in);
	if (g->out_ready)
		deflateEnd(&g->out);
	free(g->in_buf.p);
	free(g->out_buf.p);
	free(g);
}

static bool room(struct buffer *b, size_t need)
{
	if (b->cap >= need)
		return true;
	uint8_t *p = realloc(b->p, need);
	if (!p)
		return false;
	b->p = p;
	b->cap = need;
	return true;
}

static void shrink(struct buffer *b)
{
	if (b->cap > KEEP) {
		free(b->p);
		b->p = NULL;
		b->cap = 0;
	}
}

/* The trailer says how much the stream inflates to (RFC 1952, section 2.3.1: ISIZE, modulo 2^32), so a bomb costs nothing: one that says so is refused
 * unread, and one that lies is left where it goes beyond what it said. */
int gzip_inflate(struct gzip *g, struct span in, size_t max, struct span *ret)
{
	z_stream *z = &g->in;
	struct buffer *b = &g->in_buf;
	if (in.n == 0) { /* gRPC's own libraries inflate nothing to nothing */
		*ret = in;
		return 0;
	}
	if (in.n < GZIP_LEAST || load_be16(in.p) != GZIP_MAGIC)
		return -EBADMSG;
	size_t n = load_le32(in.p + in.n - 4);
	if (n > max)
		return -EMSGSIZE;
	if (g->in_ready ? inflateReset(z) : inflateInit2(z, GZIP_WINDOW))
		return -ENOMEM;
	g->in_ready = true;
	shrink(b);
	if (!room(b, n + 1)) /* one byte more is room enough to see a lie */
		return -ENOMEM;
	z->next_in = (Bytef *)(uintptr_t)in.p;
	z->avail_in = (uInt)in.n;
	z->next_out = b->p;
	z->avail_out = (uInt)(n + 1);
	int rc = inflate(z, Z_FINISH);
	if (rc == Z_MEM_ERROR)
		return -ENOMEM;
	if (rc != Z_STREAM_END || z->avail_in > 0)
		return -EBADMSG;
	*ret = (struct span){b->p, n};
	return 0;
}

int gzip_deflate(struct gzip *g, struct span in, struct span *ret)
{
	z_stream *z = &g->out;
	struct buffer *b = &g->out_buf;
	if (g->out_ready ? deflateReset(z)
			 : deflateInit2(z, LEVEL, Z_DEFLATED, GZIP_WINDOW, MEM_LEVEL, Z_DEFAULT_STRATEGY))
		return -ENOMEM;
	g->out_ready = true;
	shrink(b);
	if (!room(b, deflateBound(z, in.n)))
		return -ENOMEM;
	z->next_in = (Bytef *)(uintptr_t)in.p;
	z->avail_in = (uInt)in.n;
	z->next_out = b->p;
	z->avail_out = (uInt)b->cap;
	int rc = deflate(z, Z_FINISH);
	CHECK(rc == Z_STREAM_END); /* deflateBound is a bound */
	*ret = (struct span){b->p, b->cap - z->avail_out};
	return 0;
}
