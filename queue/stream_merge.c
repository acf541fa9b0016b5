/* Carries out one step of a sorted history: the frames of a block that are not late, and the late frames that fall among them, in order, copied
 * into one buffer. Runs on a shard when everything is in memory, else in the reader thread; the source makes the difference.
 *
 * The buffer has room for all of the block and all of the late frames, so it never grows. Bytes from a source have been checked by it as far as it can; a frame
 * that cannot be decoded all the same is damage.
 */
#include "queue/stream_impl.h"

#include <stdlib.h>

struct merge {
	const struct step *st;
	struct stream_source *src;
	struct stream_buf *out;
	uint32_t frames;
	/* The run: its next frame, if any. */
	struct span bytes; /* from pos on */
	uint64_t pos;
	struct stream_key max, key;
	size_t size; /* 0: no frame is looked at */
};

static int copy(struct merge *m, struct span frame)
{
	memcpy(m->out->data + m->out->n, frame.p, frame.n);
	m->out->n += (uint32_t)frame.n;
	m->frames++;
	return 0;
}

static void run_skip(struct merge *m)
{
	m->bytes.p += m->size;
	m->bytes.n -= m->size;
	m->pos += m->size;
	m->size = 0;
}

/* Finds the run's next frame that belongs to the step. 0 with m->size 0: there is none. */
static int run_look(struct merge *m)
{
	const struct step *st = m->st;

	while (m->size == 0 && m->pos < st->end) {
		int err = 0;

		if (m->bytes.n == 0)
			err = m->src->run(m->src, m->pos, st->where, &m->bytes);
		if (err != 0)
			return err;
		m->key.pos = m->pos;
		if (!frame_key(m->bytes, &m->key.seq_no, &m->key.timestamp, &m->size) || m->size > st->end - m->pos)
			return -EBADMSG;
		if (m->key.seq_no < m->max.seq_no ||
		    (m->key.seq_no == m->max.seq_no && m->key.timestamp < m->max.timestamp)) {
			run_skip(m); /* late: it comes from the tree */
			continue;
		}
		m->max = m->key;
		if (key_below(&m->key, &st->from)) {
			run_skip(m);
		} else if (key_below(&st->bound, &m->key)) {
			m->pos = st->end;
			m->size = 0;
		}
	}
	return 0;
}

static int late_copy(struct merge *m, const struct late_ref *l)
{
	struct span bytes;
	int err = m->src->late(m->src, l, &bytes);

	if (err != 0)
		return err;
	if (bytes.n < l->size || frame_length(bytes) != l->size)
		return -EBADMSG;
	return copy(m, (struct span){bytes.p, l->size});
}

int step_merge(const struct step *st, const struct late_ref *late, struct stream_source *src, struct stream_buf **ret,
	       uint32_t *ret_frames)
{
	struct merge m = {.st = st, .src = src, .pos = st->pos, .max = {st->max_seq, st->max_ts, 0}};
	size_t cap = (size_t)(st->end - st->pos);
	int err = 0;

	for (uint32_t i = 0; i < st->lates; i++)
		cap += late[i].size;
	m.out = buf_new(cap);
	if (m.out == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; err == 0;) {
		err = run_look(&m);
		if (err != 0)
			break;
		if (i < st->lates && (m.size == 0 || key_below(&late[i].key, &m.key))) {
			err = late_copy(&m, &late[i++]);
		} else if (m.size != 0) {
			err = copy(&m, (struct span){m.bytes.p, m.size});
			run_skip(&m);
		} else {
			break;
		}
	}
	if (err != 0) {
		buf_put(m.out);
		return err;
	}
	*ret = m.out;
	*ret_frames = m.frames;
	return 0;
}
