/* One io_uring, and the only module that knows liburing. Owned by the thread that calls ring_init; no call is thread-safe.
 *
 * Typed operations go in, plain events come out. An operation is named by a tag {slot, generation, kind}, never by a pointer, so a late
 * completion of a reused slot is recognised. Tests link a simulated twin of ring.c.
 * Source: io_uring(7), io_uring_enter(2), liburing 2.3; README.md beside this file says which features are probed.
 */
#ifndef ORDINAL_CORE_RING_H
#define ORDINAL_CORE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct ring;

/* kind: the owner's, 8 bits; gen: 24 bits; slot: 32 bits. */
static inline uint64_t ring_tag(uint32_t slot, uint32_t gen, uint8_t kind)
{
	return (uint64_t)slot | (uint64_t)(gen & 0xffffff) << 32 | (uint64_t)kind << 56;
}
static inline uint32_t ring_tag_slot(uint64_t tag)
{
	return (uint32_t)tag;
}
static inline uint32_t ring_tag_gen(uint64_t tag)
{
	return (uint32_t)(tag >> 32) & 0xffffff;
}
static inline uint8_t ring_tag_kind(uint64_t tag)
{
	return (uint8_t)(tag >> 56);
}

struct ring_event {
	uint64_t tag;
	int32_t res;  /* >= 0 or -errno */
	uint16_t buf; /* with RING_EV_BUFFER: number of the provided buffer that holds `res` bytes */
	uint16_t flags;
};
#define RING_EV_MORE 1     /* the multishot operation goes on; without it, it has ended and must be armed again */
#define RING_EV_BUFFER 2   /* `buf` is set and must be given back with ring_buf_put */
#define RING_EV_NONEMPTY 4 /* receive: more bytes were waiting in the socket */

/* Written by the owner, readable by any thread (core/base/count.h). */
struct ring_stats {
	uint64_t enters, submitted, events, sq_full, cq_overflow, buffer_starved;
	uint32_t bufs_free, bufs; /* provided buffers now with the kernel, and in all */
};

struct ring_params {
	uint32_t entries; /* of the submission queue */
	uint32_t cq_entries;
	uint32_t bufs;     /* provided receive buffers, a power of two up to 32768; 0: none */
	uint32_t buf_size; /* bytes each */
	/* allow only the operations of this header from here on (the sandbox for an appliance) */
	bool restrict_ops;
	struct ring_stats *stats; /* where to count, zero-filled; NULL: in the ring itself */
};

/* Makes a ring in the calling thread, stepping down from the best set-up the kernel takes. 0 or -errno; see ring_explain. */
int ring_init(const struct ring_params *p, struct ring **ret);
void ring_done(struct ring *r);

/* A sentence for the operator on why ring_init or ring_probe failed: what forbids io_uring here and what to do. */
const char *ring_explain(int err);
/* Tries all that ring_init needs, in a scratch ring. 0 or -errno. Any thread. */
int ring_probe(void);
/* The set-up in force, for the start-up line and stats: "defer-taskrun,single-issuer,…". */
const char *ring_features(const struct ring *r);

/* Operations. Each takes one submission slot; the queue is submitted by itself when full. Memory named by an operation must stay until its
 * (last) completion. They never fail: errors come as events. */
/* res is the new fd, close-on-exec */
void ring_accept(struct ring *r, int fd, uint64_t tag);
/* multishot, into provided buffers; -ENOBUFS ends it */
void ring_recv(struct ring *r, int fd, uint64_t tag);
void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag); /* MSG_WAITALL | MSG_NOSIGNAL */
void ring_sendmsg(struct ring *r, int fd, const struct msghdr *m, uint64_t tag);
void ring_connect(struct ring *r, int fd, const struct sockaddr *addr, socklen_t len, uint64_t tag);
/* of an eventfd or file, at the current position */
void ring_read(struct ring *r, int fd, void *p, size_t n, uint64_t tag);
void ring_pread(struct ring *r, int fd, void *p, size_t n, uint64_t offset, uint64_t tag);
/* everything on fd; each operation still completes */
void ring_cancel_fd(struct ring *r, int fd, uint64_t tag);
void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag);

/* Submits what is queued, runs completions, and waits until there is an event or timeout_ns has passed (0: do not wait; UINT64_MAX: no
 * limit). 0, or -errno other than a timeout or interruption. */
int ring_wait(struct ring *r, uint64_t timeout_ns);
/* Takes up to `max` events; their completion slots are free afterwards. */
unsigned ring_reap(struct ring *r, struct ring_event *ev, unsigned max);
/* Whether ring_reap would return any. */
bool ring_has_events(const struct ring *r);

static inline uint8_t *ring_buf_at(uint8_t *base, uint32_t buf_size, uint16_t buf)
{
	return base + (size_t)buf * buf_size;
}
/* The bytes of a provided buffer, until ring_buf_put. */
uint8_t *ring_buf(const struct ring *r, uint16_t buf);
/* Gives a buffer back; made visible to the kernel by the next ring_wait. */
void ring_buf_put(struct ring *r, uint16_t buf);

/* Any thread, while the ring lives. */
const struct ring_stats *ring_stats(const struct ring *r);

#endif
