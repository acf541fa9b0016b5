/* A subscription that survives its connections: what to ask for next, and which of the frames that
 * come are new. Pure; one owner.
 *
 *   HISTORY --CAUGHT_UP--> LIVE                        while nothing breaks
 *   HISTORY --break--> HISTORY again, from the last seq_no seen --CAUGHT_UP--> CATCH_UP (by offset) --past it--> LIVE
 *   LIVE --break--> LIVE, by offset
 *
 * The server gives history (what was durable when it was asked) in rising (seq_no, timestamp,
 * offset), then CAUGHT_UP, then what came later by offset. So while history is being read, a frame
 * at or below the last key K is one that was seen, exactly if its offset is at or below the highest
 * one seen, M: had it been there when we asked, it would have come. Frames published meanwhile with
 * a seq_no below the one that history goes on from are not in the new history at all; CATCH_UP
 * fetches them by offset, from M + 1, and leaves out what history has brought. After more than one
 * break there is one M for each piece of history, a band of seq_no. A connection that breaks before
 * it comes to K again may have brought frames below K all the same, published meanwhile: their
 * offsets are kept until one does.
 *
 * Live frames come by offset, or, where there is a reorder window, nearly so; then an offset that
 * is missing below the highest one may have been held back when the connection broke. So live
 * offsets are remembered, the last RESUME_WINDOW of them, and a connection that broke without a
 * word is taken up again RESUME_BACK offsets before its end (RESUME_WINDOW, if any frame has ever
 * come late).
 *
 * All of this is about one incarnation of the stream: its number comes with marks, and is asked for
 * when a connection is made again. When the server refuses that (OUT_OF_RANGE), the frames that
 * were delivered are not the stream's any more, and everything begins anew: resume_restart. */
#ifndef ORDINAL_TOOLS_RESUME_H
#define ORDINAL_TOOLS_RESUME_H

#include "tools/feed_codec.h"

#define RESUME_WINDOW 65536u
#define RESUME_BACK 4096u

enum resume_phase { RESUME_HISTORY, RESUME_CATCH_UP, RESUME_LIVE };

/* Of frames with seq_no at or above `from` (and below the next band's), those with offset <= `seen` were delivered. */
struct resume_band {
	uint64_t from, seen;
};

struct resume {
	uint64_t since;
	uint64_t incarnation; /* of the stream, as marks have said; 0: not known */
	enum resume_phase phase;
	bool any; /* the last key below is set: history has brought a frame */
	uint64_t seq_no, offset;
	int64_t timestamp;
	uint64_t highest; /* offset delivered; in history */
	uint64_t *extra;  /* offsets delivered below the last key since it was reached, rising */
	size_t extras, extras_cap;
	struct resume_band *band; /* rising `from`, rising `seen` */
	size_t bands, bands_cap;
	uint64_t edge;      /* CATCH_UP: above this offset, nothing was delivered */
	uint64_t next;      /* CATCH_UP, LIVE: one above the highest offset that has come */
	uint64_t live_from; /* LIVE: at or above this offset, what was delivered has a bit set in `came` */
	uint64_t told;      /* GOING_AWAY's offset; 0: none */
	bool late;          /* LIVE: a frame has come below `next` */
	uint64_t came[RESUME_WINDOW / 64]; /* offsets from next - RESUME_WINDOW, at their remainder */
	/* The connection at hand. */
	uint64_t last_seq_no, last_offset; /* the last frame that it brought */
	int64_t last_timestamp;
	bool last_any;
	bool reached;        /* the last key of the connection before */
	uint64_t begin_next; /* `next` when it began */
};

void resume_init(struct resume *r, uint64_t since);
void resume_done(struct resume *r);

/* What a new connection has to ask for: replay_seq_no_start and resume_offset (0: none), beside
 * `incarnation`. Call when one begins. */
void resume_begin(struct resume *r, uint64_t *ret_since, uint64_t *ret_offset);
/* The connection ended. 0 or -ENOMEM. */
int resume_break(struct resume *r);

enum resume_verdict {
	RESUME_NEW,        /* deliver it */
	RESUME_SEEN,       /* it was delivered before this connection */
	RESUME_REPEATED,   /* the server's fault: given twice on this connection */
	RESUME_DISORDERED, /* the server's fault: given in the wrong place on this connection */
};
/* A frame without a mark: an enum resume_verdict, or -ENOMEM. */
int resume_frame(struct resume *r, uint64_t seq_no, int64_t timestamp, uint64_t offset);
/* CAUGHT_UP came. True: this subscription has caught up; false: end the call, and begin again at once (after resume_break). */
bool resume_caught_up(struct resume *r);
/* GAP came. True: it names offsets that have not come before, from *from (raised to the first of them) on. */
bool resume_gap(struct resume *r, uint64_t *from, uint64_t to);
/* A mark has come, with this incarnation; 0: the server does not tell. */
void resume_told(struct resume *r, uint64_t incarnation);
/* Whether the next connection goes on where something was, rather than to begin: then OUT_OF_RANGE
 * means that the stream does not have it any more. */
bool resume_goes_on(const struct resume *r);
/* Forgets all that was delivered: it is not what the stream has. */
void resume_restart(struct resume *r);
/* GOING_AWAY came. */
void resume_going_away(struct resume *r, uint64_t offset);

#endif
