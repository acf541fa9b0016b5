/* What was refused, by reason and by the client's address, in bounded memory: each shard has a table of its own, and the main thread adds them up.
 *
 * IPv6 addresses count by their /64, which is what one customer of a provider has. When a table is full, the address with the fewest refusals in
 * its neighbourhood gives way to a new one; the sums by reason stay exact. */
#ifndef ORDINAL_RPC_REFUSALS_H
#define ORDINAL_RPC_REFUSALS_H

#include <stdbool.h>
#include <stdint.h>

#define REFUSALS_ADDRESSES                                                                                             \
	256 /* of a shard; a power of two. Fixed: bookkeeping, for which nobody is refused anything */

enum refusal {
	REFUSAL_PROTOCOL,        /* broke its protocol, or TLS */
	REFUSAL_FLOOD,           /* too many useless frames, resets, pieces of a header block */
	REFUSAL_TIMEOUT,         /* slow preface, headers or body */
	REFUSAL_STALLED,         /* took no output for STALL_TIMEOUT_MS */
	REFUSAL_QUEUE,           /* CONN_QUEUE_MAX */
	REFUSAL_CONNECTIONS,     /* CONNECTIONS_MAX */
	REFUSAL_CALLS,           /* STREAMS_MAX, NATIVE_INFLIGHT_MAX, CALLS_MAX */
	REFUSAL_HEADERS,         /* HEADER_LIST_MAX, HEADER_FIELDS_MAX */
	REFUSAL_MESSAGE,         /* MESSAGE_MAX, ASSEMBLY_MAX, ASSEMBLY_CONN_MAX */
	REFUSAL_UNAUTHENTICATED, /* no credential, a wrong one, or one that has expired; certificates too */
	REFUSAL_DENIED,          /* a right is missing */
	REFUSAL_LIMIT,           /* a service's: COUNT_MAX, SEQUENCES_MAX, FEED_..._MAX */
	REFUSAL_INVALID, /* a request that is none: not gRPC, of no method, malformed; INVALID_ARGUMENT, UNIMPLEMENTED */
	REFUSAL_MEMORY,  /* no memory was left */
	REFUSAL_COUNT
};
/* "protocol", "flood" … */
const char *refusal_name(enum refusal why);
/* What a line of the log begins with: "refused (protocol)" */
const char *refusal_line(enum refusal why);

struct refusals_address {
	uint32_t version; /* odd while it is being written */
	uint32_t total;   /* what it is kept for; may be more than the sum, as it is inherited from who gave way */
	uint64_t ip[2];   /* in network order; IPv4 as ::ffff:a.b.c.d; zero: none */
	uint64_t by_reason[REFUSAL_COUNT];
};

struct refusals {
	uint64_t by_reason[REFUSAL_COUNT]; /* with count_add; any thread reads */
	struct refusals_address address[REFUSALS_ADDRESSES];
};

/* The addresses that count as one client: an IPv4 address, or an IPv6 /64. */
void refusals_group(const uint64_t ip[2], uint64_t ret[2]);
/* Counts a refusal of an address, as struct conn has it; zero counts in the sums only. Owner thread. */
void refusals_note(struct refusals *r, const uint64_t ip[2], enum refusal why);

struct report;
struct daemon;
/* A section of the report. Main thread. */
void refusals_report(struct report *report);

#endif
