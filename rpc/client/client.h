/* All the channels of one thread, on one ring: the loop that flushes them, waits, and hands each completion to its channel.
 *
 * Everything here and in channel.h belongs to the thread that owns the ring. Callbacks run inside client_turn (and, where channel.h
 * says so, inside the call that caused them); they may start calls, cancel calls, make and close channels, but not run a turn. */
#ifndef ORDINAL_RPC_CLIENT_CLIENT_H
#define ORDINAL_RPC_CLIENT_CLIENT_H

#include "core/base/bytes.h"

#include <stdint.h>

struct client;
struct ring;

/* `channels_max`: open at the same time. The client reaps every event of `ring`, so nothing else may use it; the ring needs provided
 * buffers and must outlive the client. 0 or -ENOMEM. */
int client_new(struct ring *ring, uint32_t channels_max, struct client **ret);
/* Closes all channels (their calls end, their `closed` callbacks run), waits for the last completion of each, and frees. */
void client_free(struct client *c);

/* One turn: sends what was queued (one send a channel), waits until something happens or timeout_ns has passed (0: does not wait;
 * UINT64_MAX: no limit), runs the callbacks of all that happened. 0, or -errno when the ring fails. */
int client_turn(struct client *c, uint64_t timeout_ns);

/* The monotonic time, read once in each turn when its wait ended: the arrival time of all that the turn's callbacks report. */
uint64_t client_now_ns(const struct client *c);

#endif
