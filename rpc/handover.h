/* Listening sockets from systemd: those of a socket unit, and those that an earlier process of this unit has left in its file-descriptor store.
 * With them in other hands a restart refuses nobody: who connects meanwhile waits in the kernel's queue for the next process. Main thread.
 * Source: sd_listen_fds(3), sd_notify(3) FDSTORE=1, systemd.service(5) FileDescriptorStoreMax=. */
#ifndef ORDINAL_RPC_HANDOVER_H
#define ORDINAL_RPC_HANDOVER_H

#include "core/listener.h"

/* Fills l->fds and l->given with the sockets that were passed and listen on "host:port". Stored ones that do not (LISTEN was changed) are
 * closed and taken out of the store. A socket unit's must: else -EINVAL with a sentence in ret_why. */
int handover_take(const char *listen, struct listener *l, const char **ret_why);
/* Puts those that this process has opened into the store. */
void handover_keep(const struct listener *l);
/* Whether somebody else holds the sockets too, so that a drain must not shut them down. */
bool handover_is_kept(const struct listener *l);

#endif
