/* Bytes on their way to a call: a piece of a stream's log, or bytes of our own, offered again and again from where the call stopped taking. Runs on the
 * shard.
 *
 * A piece is counted: its feed_out holds it once, and each send that names it once more until the connection's output has let go. So the memory of
 * the log stays for as long as the kernel may read it, also when subscriber and connection are gone. */
#include "rpc/feed_impl.h"

#include "core/base/check.h"
#include "core/base/count.h"

#include <stdlib.h>

static struct feed_piece *piece_get(struct svc_feed *f)
{
	uint32_t slot;
	struct feed_piece *p = slab_get(&f->pieces, &slot);

	if (!p)
		return NULL;
	*p = (struct feed_piece){.feed = f, .refs = 1, .slot = slot};
	count_add(&f->pieces_held, 1);
	return p;
}

static void piece_drop(struct feed_piece *p)
{
	count_add(&p->feed->pieces_held, -UINT64_C(1));
	slab_put(&p->feed->pieces, p->slot);
}

struct feed_piece *feed_piece_new(struct svc_feed *f, size_t cap)
{
	struct feed_piece *p = piece_get(f);

	if (!p)
		return NULL;
	p->own = true;
	p->slice.p = malloc(cap);
	if (p->slice.p)
		return p;
	piece_drop(p);
	return NULL;
}

struct feed_piece *feed_piece_of(struct svc_feed *f, const struct stream_slice *s)
{
	struct feed_piece *p = piece_get(f);
	struct stream_slice slice = *s;

	if (p)
		p->slice = slice;
	else
		stream_slice_put(f->view, &slice);
	return p;
}

void feed_piece_put(struct feed_piece *p)
{
	DCHECK(p->refs > 0);
	if (--p->refs)
		return;
	count_add(&p->feed->room.bytes, -p->room_bytes);
	if (p->own)
		free((void *)(uintptr_t)p->slice.p);
	else
		stream_slice_put(p->feed->view, &p->slice);
	piece_drop(p);
}

static void on_release(void *owner)
{
	feed_piece_put(owner);
}

void feed_out_set(struct feed_out *o, struct feed_piece *p)
{
	DCHECK(!o->piece);
	o->piece = p;
	o->at = 0;
}

void feed_out_reset(struct feed_out *o)
{
	if (o->piece)
		feed_piece_put(o->piece);
	o->piece = NULL;
}

bool feed_out_send(struct call *c, struct feed_out *o)
{
	struct feed_piece *p = o->piece;

	if (!p)
		return true;
	p->refs++;
	o->at += call_send_framed(c, &(struct conn_slice){.p = p->slice.p + o->at,
							  .n = (uint32_t)(p->slice.n - o->at),
							  .release = on_release,
							  .owner = p,
							  .scarce = p->slice.scarce});
	if (o->at < p->slice.n)
		return false;
	o->piece = NULL;
	feed_piece_put(p);
	return true;
}
