/* grpc.testing.TestService, on the method table that the daemon's services are on: what gRPC's interoperability cases talk to. */
#ifndef ORDINAL_TESTS_INTEROP_SVC_TEST_H
#define ORDINAL_TESTS_INTEROP_SVC_TEST_H

#include "rpc/typed.h"

#define SVC_TEST_METHODS 6
extern const struct typed_method svc_test_methods[SVC_TEST_METHODS];

#endif
