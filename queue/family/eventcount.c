/* The sleeping half of the eventcount: two futex calls.
 *
 * Invariant: waiters >= the number of threads between eventcount_prepare and their waking. Whoever ends a thread's
 * wait takes it off the count: the notifier for those that futex(2) says it woke, the thread itself in every other
 * case.
 */
#include "queue/family/eventcount.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void eventcount_wait(struct eventcount *e, uint32_t key)
{
	long r = syscall(SYS_futex, &e->key, FUTEX_WAIT_PRIVATE, key, NULL, NULL, 0);

	if (r != 0)
		eventcount_cancel(e);
}

void eventcount_wake(struct eventcount *e, int n)
{
	long woken;

	atomic_fetch_add_explicit(&e->key, 1, memory_order_release); /* pairs with eventcount_prepare */
	woken = syscall(SYS_futex, &e->key, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
	if (woken > 0)
		atomic_fetch_sub_explicit(&e->waiters, (unsigned)woken, memory_order_relaxed);
}
