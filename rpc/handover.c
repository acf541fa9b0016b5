/* Taking listening sockets over, and leaving them behind; see the header. Main thread, at start.
 *
 * What is in the store was put there by a process of the same unit and user, so more sockets can join the same SO_REUSEPORT group. A
 * socket unit's sockets are root's: the kernel lets nobody else join them, and all shards accept from the same ones.
 */
#include "rpc/handover.h"
#include "core/base/log.h"
#include "rpc/notify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define STORED_NAME "ordinald-listen"

static char why[320];

static int refuse(const char *bound, const char *name, const char *listen, const char **ret_why)
{
	snprintf(
		why, sizeof why,
		"systemd passed the socket %.64s (%.64s), and LISTEN=\"%.64s\": make ListenStream= of the socket unit and LISTEN name the same "
		"address",
		name, *bound ? bound : "not a listening TCP socket", listen);
	*ret_why = why;
	return -EINVAL;
}

int handover_take(const char *listen, struct listener *l, const char **ret_why)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), rc = 0;
	bool stale = false;
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		char bound[LISTENER_TEXT] = "";
		bool stored = strcmp(names[i], STORED_NAME) == 0;
		bool fits = listener_is_on(fd, listen, bound) && l->given < LISTENER_MAX;
		if (fits && listener_lacks_ipv4(fd)) {
			fits = !stored; /* an earlier version's, which left IPV6_V6ONLY to the system: opened anew */
			if (fits)
				log_warn(
					"systemd's socket %.64s is for IPv6 alone: set BindIPv6Only=both in its unit to serve IPv4, too",
					names[i]);
		}
		if (fits) {
			l->fds[l->given++] = fd;
			continue;
		}
		stale |= stored;
		if (!stored && rc == 0)
			rc = refuse(bound, names[i], listen, ret_why);
		close(fd);
	}
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	if (stale) { /* all go by one name, so those that fit are put there again */
		notify("FDSTOREREMOVE=1\nFDNAME=" STORED_NAME);
		for (unsigned i = 0; i < l->given; i++)
			notify_fd("FDSTORE=1\nFDNAME=" STORED_NAME, l->fds[i]);
	}
	while (rc && l->given)
		close(l->fds[--l->given]);
	return rc;
}

void handover_keep(const struct listener *l)
{
	for (unsigned i = l->given; i < l->count && !l->shared; i++) {
		int rc = notify_fd("FDSTORE=1\nFDNAME=" STORED_NAME, l->fds[i]);
		if (rc < 0) {
			log_warn(
				"systemd does not keep the listening sockets, so a restart will refuse connections: %s",
				strerror(-rc));
			return;
		}
	}
	if (l->given)
		log_info("took over %u listening sockets", l->given);
}

bool handover_is_kept(const struct listener *l)
{
	return l->given || getenv("NOTIFY_SOCKET");
}
