/* SIGHUP: reads the configuration file again, makes what can change while the daemon runs as it says, and tells what changed and what needs a
 * restart. Certificates and rules of access are read again, too. A configuration that would be refused at start is refused, and nothing changes.
 * Main thread. */
#ifndef ORDINAL_RPC_RELOAD_H
#define ORDINAL_RPC_RELOAD_H

#include "rpc/daemon.h"

#define RELOAD_ANSWER 512

/* Where the configuration came from; it is read from there again. */
struct reload_source {
	const char *file; /* NULL: none */
	const char *const *overrides;
	size_t override_count;
};

/* 0, or -errno when something stays as it was that should not. `ret_answer` is the outcome in a sentence, for systemd's status. The log has it
 * line by line. */
int reload(struct daemon *d, const struct reload_source *from, char ret_answer[RELOAD_ANSWER]);

#endif
