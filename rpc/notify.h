/* What the service manager is told (sd_notify(3)), without ever waiting for it to listen: libsystemd's own call waits as long as the manager's socket is full. What
 * does not fit now is kept, in order, and sent by notify_turn. Nothing happens without $NOTIFY_SOCKET. Main thread. */
#ifndef ORDINAL_RPC_NOTIFY_H
#define ORDINAL_RPC_NOTIFY_H

#include <stdint.h>

#define NOTIFY_KEPT_MAX 8u /* messages; the oldest is lost for one more */

/* "READY=1\nSTATUS=..." */
void notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Sends what is kept, as far as that is possible. When to call again; UINT64_MAX: nothing is kept. */
uint64_t notify_turn(uint64_t now_ns);
/* A message with a descriptor. The manager is waited for a second at the most: at start, before there are clients. 1; 0: there is no manager; or -errno. */
int notify_fd(const char *text, int fd);

#endif
