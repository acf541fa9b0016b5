/* Counting refusals; see the header. Written by a shard, for itself alone, and read by the main thread at any time.
 *
 * An entry is read between two looks at its version: an odd one, or one that has changed, means that its address was being replaced, and the reader
 * tries again (a seqlock with one writer). Replacing the lesser of a few neighbours, and inheriting its total, is "space saving" (Metwally et al.
 * 2005): an address that is refused often is found again however many others come by once.
 */
#include "rpc/refusals.h"
#include "core/base/check.h"
#include "core/base/count.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>

enum { NEIGHBOURS = 8 };

#define NAMES(X)                                                                                                       \
	X("protocol")                                                                                                  \
	X("flood")                                                                                                     \
	X("timeout")                                                                                                   \
	X("stalled")                                                                                                   \
	X("queue")                                                                                                     \
	X("connections")                                                                                               \
	X("calls")                                                                                                     \
	X("headers")                                                                                                   \
	X("message")                                                                                                   \
	X("unauthenticated")                                                                                           \
	X("permission_denied")                                                                                         \
	X("limit")                                                                                                     \
	X("invalid")                                                                                                   \
	X("memory")

const char *refusal_name(enum refusal why)
{
#define NAME(name) name,
	static const char *const names[REFUSAL_COUNT] = {NAMES(NAME)};
	return (unsigned)why < REFUSAL_COUNT ? names[why] : "?";
}

const char *refusal_line(enum refusal why)
{
#define LINE(name) "refused (" name ")",
	static const char *const lines[REFUSAL_COUNT] = {NAMES(LINE)};
	return (unsigned)why < REFUSAL_COUNT ? lines[why] : "refused";
}

/* A customer of a provider has a /64. */
void refusals_group(const uint64_t ip[2], uint64_t ret[2])
{
	struct in6_addr a;
	memcpy(&a, ip, sizeof a);
	if (!IN6_IS_ADDR_V4MAPPED(&a) && !IN6_IS_ADDR_LOOPBACK(&a))
		memset(a.s6_addr + 8, 0, 8);
	memcpy(ret, &a, sizeof a);
}

static uint32_t home_of(const uint64_t ip[2])
{
	uint64_t h = (ip[0] ^ ip[1] * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);
	return (uint32_t)(h >> 32);
}

static struct refusals_address *entry_of(struct refusals *r, const uint64_t ip[2])
{
	struct refusals_address *least = NULL;
	uint32_t home = home_of(ip);
	for (unsigned i = 0; i < NEIGHBOURS; i++) {
		struct refusals_address *e = &r->address[(home + i) % REFUSALS_ADDRESSES];
		if (e->ip[0] == ip[0] && e->ip[1] == ip[1])
			return e;
		if (!least || e->total < least->total)
			least = e;
	}
	/* Pairs with read_entry. */
	__atomic_store_n(&least->version, least->version + 1, __ATOMIC_RELAXED);
	atomic_thread_fence(memory_order_release);
	__atomic_store_n(&least->ip[0], ip[0], __ATOMIC_RELAXED);
	__atomic_store_n(&least->ip[1], ip[1], __ATOMIC_RELAXED);
	for (unsigned i = 0; i < REFUSAL_COUNT; i++)
		__atomic_store_n(&least->by_reason[i], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&least->version, least->version + 1, __ATOMIC_RELEASE);
	return least;
}

void refusals_note(struct refusals *r, const uint64_t ip[2], enum refusal why)
{
	uint64_t of[2];
	count_add(&r->by_reason[why], 1);
	refusals_group(ip, of);
	if (!of[0] && !of[1])
		return;
	struct refusals_address *e = entry_of(r, of);
	e->total += e->total < UINT32_MAX;
	count_add(&e->by_reason[why], 1);
}
