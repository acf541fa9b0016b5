/* A server of services that a test brings: the daemon's own shard, sessions and method table, without its services: one shard, no journal. */
#ifndef ORDINAL_TESTS_HOST_HOST_H
#define ORDINAL_TESTS_HOST_HOST_H

#include "rpc/method.h"

/* The whole program: options --port P [--tls-cert F --tls-key F]; prints "listens on HOST:PORT" once it does; SIGTERM and SIGINT drain and stop. `add`
 * adds services to the table; grpc.health.v1.Health is there besides. Returns the exit code. Main thread. */
int host_main(const char *program, void (*add)(struct method_table *t), int argc, char **argv);

#endif
