/* interop-server: grpc.testing.TestService, for gRPC's interoperability cases. Options: tests/host/host.h. */
#include "tests/host/host.h"
#include "tests/interop/svc_test.h"

static void add(struct method_table *t)
{
	typed_table_add(t, svc_test_methods, SVC_TEST_METHODS);
}

int main(int argc, char **argv)
{
	return host_main("interop-server", add, argc, argv);
}
