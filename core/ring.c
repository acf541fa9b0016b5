/* One io_uring: set-up ladder, provided buffers, typed operations, submit and reap. The only file that includes <liburing.h>.
 *
 * Invariants: an SQE is always fully prepared before the next is taken; user_data is set on every one. Provided buffers are
 * added to the buffer ring as they come back, but made visible with one tail store in ring_wait. Under DEFER_TASKRUN every
 * enter asks for events, or completions would not run. Runs on the thread that made it; leaves connections and their
 * states to conn.c.
 */
#include "core/ring.h"
#include "core/base/check.h"
#include "core/base/count.h"
#include "core/ring_compat.h"

#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ring {
	struct io_uring u;
	struct io_uring_buf_ring *br;
	uint8_t *buf_mem;
	size_t br_bytes, buf_bytes;
	uint32_t buf_size;
	uint16_t buf_mask;
	uint16_t buf_added; /* put back since the last tail store */
	unsigned enter_flags;
	bool has_ring_fd;
	struct ring_stats *stats, own_stats;
	char features[160];
};

enum { BUF_GROUP = 0 };

/* From best to plainest. Only single-issuer with deferred task work is fast, but every rung is correct. */
static const struct {
	unsigned flags;
	const char *name;
} ladder[] = {
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	 "single-issuer,defer-taskrun"},
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	 "single-issuer,coop-taskrun"},
	{IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL, "coop-taskrun"},
	{0, "plain"},
};

static int setup(struct ring *r, const struct ring_params *p, unsigned extra, const char **ret_name)
{
	int rc = -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(ladder) && rc == -EINVAL; i++) {
		struct io_uring_params up = {
			.flags = ladder[i].flags | extra | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = p->cq_entries,
		};
		rc = io_uring_queue_init_params(p->entries, &r->u, &up);
		*ret_name = ladder[i].name;
	}
	return rc;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static int bufs_init(struct ring *r, const struct ring_params *p)
{
	if (p->bufs == 0)
		return 0;
	CHECK((p->bufs & (p->bufs - 1)) == 0 && p->bufs <= 32768);
	r->br_bytes = p->bufs * sizeof(struct io_uring_buf);
	r->buf_bytes = (size_t)p->bufs * p->buf_size;
	r->br = map(r->br_bytes);
	r->buf_mem = map(r->buf_bytes);
	if (!r->br || !r->buf_mem)
		return -ENOMEM;
	struct io_uring_buf_reg reg = {.ring_addr = (unsigned long)r->br, .ring_entries = p->bufs, .bgid = BUF_GROUP};
	int rc = io_uring_register_buf_ring(&r->u, &reg, 0);
	if (rc)
		return rc;
	r->buf_size = p->buf_size;
	r->buf_mask = (uint16_t)(p->bufs - 1);
	io_uring_buf_ring_init(r->br);
	/* Lowest numbers are used first and come back first, so memory beyond the working set is never touched. */
	for (uint32_t i = 0; i < p->bufs; i++)
		io_uring_buf_ring_add(r->br, r->buf_mem + (size_t)i * p->buf_size, p->buf_size, (unsigned short)i,
				      r->buf_mask, (int)i);
	io_uring_buf_ring_advance(r->br, (int)p->bufs);
	count_add(&r->stats->bufs, p->bufs);
	count_add(&r->stats->bufs_free, p->bufs);
	return 0;
}

/* seccomp does not see ring operations, so the ring itself is told which it may run. */
static int restrict_ops(struct ring *r)
{
	static const uint8_t ops[] = {IORING_OP_ACCEPT, IORING_OP_RECV,         IORING_OP_SEND, IORING_OP_SENDMSG,
				      IORING_OP_READ,   IORING_OP_ASYNC_CANCEL, IORING_OP_NOP};
	struct io_uring_restriction res[ARRAY_SIZE(ops) + 1];
	memset(res, 0, sizeof res);
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		res[i] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[i]};
	res[ARRAY_SIZE(ops)] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
							     .sqe_flags = IOSQE_BUFFER_SELECT};
	/* By system call: liburing 2.3's shared library does not export its functions for these two. */
	int fd = r->u.ring_fd;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, res, (unsigned)ARRAY_SIZE(res)) < 0)
		return -errno;
	return syscall(__NR_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0u) < 0 ? -errno : 0;
}

int ring_init(const struct ring_params *p, struct ring **ret)
{
	struct ring *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	r->stats = p->stats ? p->stats : &r->own_stats;
	const char *name = "";
	int rc = setup(r, p, p->restrict_ops ? IORING_SETUP_R_DISABLED : 0, &name);
	if (rc) {
		free(r);
		return rc;
	}
	r->has_ring_fd = io_uring_register_ring_fd(&r->u) == 1;
	io_uring_ring_dontfork(&r->u);
	rc = bufs_init(r, p);
	if (rc == 0 && p->restrict_ops)
		rc = restrict_ops(r);
	if (rc) {
		ring_done(r);
		return rc;
	}
	r->enter_flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
	if (r->has_ring_fd)
		r->enter_flags |= IORING_ENTER_REGISTERED_RING;
	if (r->u.features & IORING_FEAT_NO_IOWAIT)
		r->enter_flags |= IORING_ENTER_NO_IOWAIT;
	snprintf(r->features, sizeof r->features, "%s%s%s%s", name, r->has_ring_fd ? ",registered-fd" : "",
		 r->u.features & IORING_FEAT_NO_IOWAIT ? ",no-iowait" : "", p->restrict_ops ? ",restricted" : "");
	*ret = r;
	return 0;
}

void ring_done(struct ring *r)
{
	if (!r)
		return;
	io_uring_queue_exit(&r->u);
	if (r->br)
		munmap(r->br, r->br_bytes);
	if (r->buf_mem)
		munmap(r->buf_mem, r->buf_bytes);
	free(r);
}

const char *ring_explain(int err)
{
	switch (err) {
	case -EPERM:
		return "io_uring is forbidden here: allow it with `sysctl kernel.io_uring_disabled=0`, or lift the seccomp or "
		       "container policy that denies io_uring_setup";
	case -ENOSYS:
		return "this kernel has no io_uring, or a seccomp policy hides it: Ordinal needs Linux 6.1 or newer with "
		       "CONFIG_IO_URING";
	case -EINVAL:
		return "this kernel's io_uring lacks multishot receive with provided buffer rings: Ordinal needs Linux 6.1 or "
		       "newer";
	case -ENOMEM:
		return "not enough memory for io_uring: raise `ulimit -l` (LimitMEMLOCK=) or the memory limit of the cgroup, or "
		       "lower RING_ENTRIES, CQ_ENTRIES and RECV_BUFFERS";
	case -EMFILE:
	case -ENFILE:
		return "no file descriptor left for io_uring: raise `ulimit -n` (LimitNOFILE=)";
	default:
		return strerror(-err);
	}
}

/* Multishot receive has no feature bit of its own: it came in 6.0, together with SEND_ZC, whose opcode the probe can see. */
static int probe_ops(struct io_uring *u)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(u);
	if (!probe)
		return -EINVAL;
	bool ok = io_uring_opcode_supported(probe, IORING_OP_SEND_ZC) && (u->features & IORING_FEAT_EXT_ARG) &&
		  (u->features & IORING_FEAT_NODROP);
	io_uring_free_probe(probe);
	return ok ? 0 : -EINVAL;
}

int ring_probe(void)
{
	struct ring *r;
	int rc = ring_init(&(struct ring_params){.entries = 8, .cq_entries = 16, .bufs = 8, .buf_size = 512}, &r);
	if (rc)
		return rc;
	rc = probe_ops(&r->u);
	ring_done(r);
	return rc;
}

const char *ring_features(const struct ring *r)
{
	return r->features;
}

/* Makes queued SQEs visible to the kernel (as liburing's own flush, which it does not export). Returns how many wait there. */
static unsigned flush_sq(struct ring *r)
{
	struct io_uring_sq *sq = &r->u.sq;
	unsigned n = sq->sqe_tail - sq->sqe_head, tail = *sq->ktail;
	for (; n > 0; n--, tail++, sq->sqe_head++)
		sq->array[tail & sq->ring_mask] = sq->sqe_head & sq->ring_mask;
	__atomic_store_n(sq->ktail, tail, __ATOMIC_RELEASE);
	return tail - __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);
}

static int enter(struct ring *r, unsigned submit, unsigned min_complete, const struct __kernel_timespec *ts)
{
	struct io_uring_getevents_arg arg = {.sigmask_sz = _NSIG / 8, .ts = (unsigned long)ts};
	int rc = io_uring_enter2((unsigned)(r->has_ring_fd ? r->u.enter_ring_fd : r->u.ring_fd), submit, min_complete,
				 r->enter_flags, (sigset_t *)&arg, sizeof arg);
	count_add(&r->stats->enters, 1);
	if (rc > 0)
		count_add(&r->stats->submitted, (unsigned)rc);
	return rc;
}

static struct io_uring_sqe *sqe(struct ring *r)
{
	struct io_uring_sqe *s;
	while (unlikely(!(s = io_uring_get_sqe(&r->u)))) {
		count_add(&r->stats->sq_full, 1);
		int rc = enter(r, flush_sq(r), 0, NULL);
		/* -EBUSY and -EAGAIN: completions must drain first, and the enter above has just run them. Anything else means that
		 * this ring can take no operation any more. */
		CHECK(rc >= 0 || rc == -EBUSY || rc == -EAGAIN || rc == -EINTR || rc == -ETIME);
	}
	return s;
}

void ring_accept(struct ring *r, int fd, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_accept(s, fd, NULL, NULL, SOCK_CLOEXEC);
	s->user_data = tag;
}

void ring_recv(struct ring *r, int fd, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_recv_multishot(s, fd, NULL, 0, 0);
	s->ioprio |= IORING_RECVSEND_POLL_FIRST;
	s->flags |= IOSQE_BUFFER_SELECT;
	s->buf_group = BUF_GROUP;
	s->user_data = tag;
}

void ring_send(struct ring *r, int fd, const void *p, size_t n, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_send(s, fd, p, n, MSG_WAITALL | MSG_NOSIGNAL);
	s->user_data = tag;
}

void ring_sendmsg(struct ring *r, int fd, const struct msghdr *m, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_sendmsg(s, fd, m, MSG_WAITALL | MSG_NOSIGNAL);
	s->user_data = tag;
}

void ring_connect(struct ring *r, int fd, const struct sockaddr *addr, socklen_t len, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_connect(s, fd, addr, len);
	s->user_data = tag;
}

void ring_read(struct ring *r, int fd, void *p, size_t n, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_read(s, fd, p, (unsigned)n, (uint64_t)-1);
	s->user_data = tag;
}

void ring_pread(struct ring *r, int fd, void *p, size_t n, uint64_t offset, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_read(s, fd, p, (unsigned)n, offset);
	s->user_data = tag;
}

void ring_cancel_fd(struct ring *r, int fd, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_cancel_fd(s, fd, IORING_ASYNC_CANCEL_ALL);
	s->user_data = tag;
}

void ring_cancel_tag(struct ring *r, uint64_t victim, uint64_t tag)
{
	struct io_uring_sqe *s = sqe(r);
	io_uring_prep_cancel64(s, victim, 0);
	s->user_data = tag;
}

int ring_wait(struct ring *r, uint64_t timeout_ns)
{
	if (r->buf_added) {
		io_uring_buf_ring_advance(r->br, r->buf_added);
		r->buf_added = 0;
	}
	struct __kernel_timespec ts = {.tv_sec = (long long)(timeout_ns / 1000000000u),
				       .tv_nsec = (long long)(timeout_ns % 1000000000u)};
	/* Events left from the last reap, or a timeout of zero: run what is due, but do not sleep. */
	bool sleep = timeout_ns != 0 && io_uring_cq_ready(&r->u) == 0;
	int rc = enter(r, flush_sq(r), sleep ? 1 : 0, timeout_ns == UINT64_MAX || !sleep ? NULL : &ts);
	if (__atomic_load_n(r->u.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW)
		count_add(&r->stats->cq_overflow, 1);
	return rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN ? 0 : rc;
}

unsigned ring_reap(struct ring *r, struct ring_event *ev, unsigned max)
{
	struct io_uring_cq *cq = &r->u.cq;
	unsigned head = *cq->khead, ready = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE) - head;
	unsigned n = ready < max ? ready : max, bufs = 0, starved = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct io_uring_cqe *c = &cq->cqes[(head + i) & cq->ring_mask];
		/* The kernel's F_BUFFER and F_MORE are bits 0 and 1, ours the other way round; F_SOCK_NONEMPTY is bit 2 in both. */
		unsigned f = c->flags;
		ev[i] = (struct ring_event){
			.tag = c->user_data,
			.res = c->res,
			.buf = (uint16_t)(f >> IORING_CQE_BUFFER_SHIFT),
			.flags = (uint16_t)((f & IORING_CQE_F_SOCK_NONEMPTY) | (f & IORING_CQE_F_MORE) >> 1 |
					    (f & IORING_CQE_F_BUFFER) << 1),
		};
		bufs += f & IORING_CQE_F_BUFFER;
		starved += c->res == -ENOBUFS;
	}
	__atomic_store_n(cq->khead, head + n, __ATOMIC_RELEASE);
	count_add(&r->stats->events, n);
	count_add(&r->stats->bufs_free, 0u - bufs);
	count_add(&r->stats->buffer_starved, starved);
	return n;
}

bool ring_has_events(const struct ring *r)
{
	return io_uring_cq_ready(&r->u) > 0;
}

uint8_t *ring_buf(const struct ring *r, uint16_t buf)
{
	DCHECK(buf <= r->buf_mask);
	return ring_buf_at(r->buf_mem, r->buf_size, buf);
}

void ring_buf_put(struct ring *r, uint16_t buf)
{
	io_uring_buf_ring_add(r->br, ring_buf(r, buf), r->buf_size, buf, r->buf_mask, r->buf_added);
	r->buf_added++;
	count_add(&r->stats->bufs_free, 1);
}

const struct ring_stats *ring_stats(const struct ring *r)
{
	return r->stats;
}
