/* The limit for repeated lines; see the header.
 *
 * Invariants: a class is in the list at most once (`listed`), put there by whoever suppresses its first line; the writer alone takes the list, and
 * keeps a class while it has something to tell. `more` is exchanged for 0 by who tells of it, so each suppressed line is told of once.
 * The burst is a leaky bucket by its time to empty ("GCRA"): a compare-and-swap, no lock.
 */
#include "core/base/log_limit.h"

#include "core/base/clock.h"

#include <stddef.h>

static _Atomic(struct log_limit *) news; /* suppressed a line first; release by list, acquire by log_limit_tell */
static struct log_limit *known;          /* the writer's */

static void list(struct log_limit *l, const char *what)
{
	struct log_limit *head = atomic_load_explicit(&news, memory_order_relaxed);

	if (atomic_exchange_explicit(&l->listed, true, memory_order_acq_rel))
		return;
	l->what = what;
	do {
		l->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&news, &head, l, memory_order_release, memory_order_relaxed));
	log_ring_writer();
}

bool log_limit_pass_at(struct log_limit *l, const char *what, uint64_t now_ns, unsigned long long *ret_more)
{
	uint64_t full = atomic_load_explicit(&l->full_ns, memory_order_relaxed);
	uint64_t said = atomic_load_explicit(&l->said_ns, memory_order_relaxed);
	uint64_t next = (full > now_ns ? full : now_ns) + LOG_LIMIT_REFILL_NS;

	if ((said != 0 && (int64_t)(now_ns - said) < (int64_t)LOG_LIMIT_PAUSE_NS) ||
	    next > now_ns + LOG_LIMIT_BURST * LOG_LIMIT_REFILL_NS ||
	    !atomic_compare_exchange_strong_explicit(&l->full_ns, &full, next, memory_order_relaxed,
						     memory_order_relaxed)) { /* another thread has just said it */
		atomic_fetch_add_explicit(&l->more, 1, memory_order_relaxed);
		list(l, what);
		return false;
	}
	atomic_store_explicit(&l->said_ns, now_ns, memory_order_relaxed);
	*ret_more = atomic_exchange_explicit(&l->more, 0, memory_order_relaxed);
	return true;
}

bool log_limit_pass(struct log_limit *l, const char *what, unsigned long long *ret_more)
{
	return log_limit_pass_at(l, what, clock_mono_ns(), ret_more);
}

bool log_limit_has_news(void)
{
	return atomic_load_explicit(&news, memory_order_relaxed) != NULL;
}

/* Takes over what is new. */
static void learn(void)
{
	struct log_limit *l = atomic_exchange_explicit(&news, NULL, memory_order_acquire); /* pairs with list */

	while (l != NULL) {
		struct log_limit *next = l->next;

		l->next = known;
		known = l;
		l = next;
	}
}

/* Lets go of a class that has nothing to tell. False: it has, by now. */
static bool unlist(struct log_limit *l)
{
	atomic_exchange_explicit(&l->listed, false,
				 memory_order_acq_rel); /* pairs with list: what it found listed is seen */
	if (atomic_load_explicit(&l->more, memory_order_relaxed) == 0)
		return true;
	return atomic_exchange_explicit(&l->listed, true,
					memory_order_acq_rel); /* true: whoever added it has listed it */
}

uint64_t log_limit_tell(uint64_t now_ns, bool all, void (*each)(unsigned long long more, const char *what))
{
	uint64_t due = UINT64_MAX;

	learn();
	for (struct log_limit **p = &known, *l; (l = *p) != NULL;) {
		uint64_t at = atomic_load_explicit(&l->said_ns, memory_order_relaxed) + LOG_LIMIT_REFILL_NS;
		struct log_limit *next = l->next;
		unsigned long long more = 0;

		if (all || now_ns >= at)
			more = atomic_exchange_explicit(&l->more, 0, memory_order_relaxed);
		if (more > 0) {
			atomic_store_explicit(&l->said_ns, now_ns, memory_order_relaxed);
			each(more, l->what);
			at = now_ns + LOG_LIMIT_REFILL_NS;
		}
		if (atomic_load_explicit(&l->more, memory_order_relaxed) == 0) {
			*p = next;
			if (unlist(l))
				continue;
			l->next = next; /* it is ours again */
			*p = l;
		}
		due = at < due ? at : due;
		p = &l->next;
	}
	return due;
}
