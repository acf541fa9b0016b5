/* The subscribers of `ordinal load`: many connections, read by a few threads as fast as it goes.
 *
 * Not on rpc/client: there each message is handed over by a call, and receive buffers go round through more memory than a cache holds. Here one buffer
 * of a thread is read into and walked in place, for all its connections. Main thread, but for what says otherwise. */
#ifndef ORDINAL_TOOLS_SUBS_H
#define ORDINAL_TOOLS_SUBS_H

#include "core/base/hist.h"
#include "rpc/client/address.h"
#include "rpc/client/channel.h"
#include "tools/feed_codec.h"
#include "tools/subs_check.h"

#include <pthread.h>
#include <stdatomic.h>

enum subs_verify { SUBS_VERIFY_SAMPLED, SUBS_VERIFY_ALL, SUBS_VERIFY_NONE };

struct subs_opts {
	struct address address;
	const char *server, *token; /* token: NULL: none */
	struct tls_context *tls;    /* NULL: cleartext */
	const char *tls_name;
	enum channel_protocol protocol;
	struct span stream;
	uint64_t since;
	enum feed_slow slow;
	enum subs_verify verify;
	uint32_t subscribers, threads;
	uint32_t publishers; /* of this run; 0: frames are somebody else's */
	uint64_t run;
	uint64_t silence_ns; /* at the end: given up when nothing came for so long */
	const int *cpus;     /* thread i runs on cpus[(cpu_first + i) % cpus_n] */
	unsigned cpus_n, cpu_first;
};

enum subs_phase {
	SUBS_CONNECT, /* make the connections */
	SUBS_BEGIN,   /* subscribe */
	SUBS_MEASURE, /* count deliveries and latency */
	SUBS_FINISH, /* until each subscriber has `goal` frames of this run (or, without publishers, has caught up), or there is silence */
	SUBS_STOP,
};

/* What one thread counts: written by it with hist_bump, read at any time. */
struct subs_counts {
	struct hist latency;        /* ns, from the stamp to the end of the receive that brought the frame */
	uint64_t deliveries, bytes; /* while measuring and finishing: frames, and bytes of their messages */
	uint64_t verified;          /* frames whose CRC was compared */
	uint64_t damaged;           /* … and was wrong */
	uint64_t gaps, gap_frames;  /* GAP marks, and offsets that they name */
	uint64_t foreign;           /* frames that are not of this run */
	uint64_t lost;              /* subscriptions that ended before they should */
};

struct subs_conn;
struct subs;

struct subs_thread {
	struct subs *subs;
	unsigned number;
	uint32_t conns;
	struct subs_conn *conn;
	pthread_t thread;
	uint8_t *buf;    /* SUBS_BUF and slack */
	uint8_t *cipher; /* SUBS_CIPHER, with TLS */
	int epoll;
	uint32_t live; /* conns that are open */
	int phase;
	bool measuring;
	uint64_t now_ns;
	uint32_t batch; /* frames in the receive at hand, so far */
	uint64_t heard_ns;
	_Alignas(CACHE_LINE) struct subs_counts counts;
	atomic_uint ready;          /* conns that stand (SUBS_CONNECT) or have caught up (later) */
	atomic_uint_fast64_t least; /* of its conns: the fewest frames of this run that have come */
	uint64_t last_ns;           /* when the last delivery that counts came */
	uint64_t cpu_start_ns, cpu_ns;
	int err;
	char why[256]; /* of err, or of the first loss */
};

struct subs {
	struct subs_opts opts;
	atomic_int phase;
	atomic_uint ended;
	atomic_bool failed;         /* a thread could not begin */
	atomic_uint_fast64_t goal;  /* SUBS_FINISH: frames of this run for everybody */
	struct subs_thread *thread; /* opts.threads of them */
};

int subs_start(struct subs *s, const struct subs_opts *opts);
void subs_set_phase(struct subs *s, enum subs_phase phase);
/* Of all threads. */
uint32_t subs_ready(const struct subs *s);
/* The fewest frames of this run that any subscriber has got. Any thread; a little behind. */
uint64_t subs_least(const struct subs *s);
/* Waits for the threads to end. */
void subs_join(struct subs *s);
/* After subs_join. */
void subs_free(struct subs *s);
/* Adds the threads' counts up. At any time. */
void subs_sum(const struct subs *s, struct subs_counts *ret);

struct subs_result {
	uint64_t received, repeated, disordered, missing, unchecked;
	uint64_t fewest, most; /* frames of one subscriber */
	uint32_t caught_up;    /* subscribers that have */
	uint64_t cpu_ns, last_ns;
	const char *why; /* of the first loss; NULL: none */
};
/* After subs_join. acked: of each publisher of this run, how many frames were acknowledged. */
void subs_result(const struct subs *s, const uint64_t *acked, struct subs_result *ret);

#endif
