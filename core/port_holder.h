/* Who has a TCP port, for the sentence that says why it cannot be had. Main thread, at start. */
#ifndef ORDINAL_CORE_PORT_HOLDER_H
#define ORDINAL_CORE_PORT_HOLDER_H

#include <stddef.h>
#include <sys/socket.h>

/* Writes into `buf` a clause that names the holder of the port of `addr` (of AF_INET or
 * AF_INET6), as far as this user may know it: "process 123 (nginx) listens on 0.0.0.0:50051";
 * "process 7 (curl) uses it for its connection to 10.0.0.1:443 ...". Returns buf. */
const char *port_holder_describe(const struct sockaddr *addr, char *buf, size_t cap);

#endif
