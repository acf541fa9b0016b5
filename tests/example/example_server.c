/* example-server: a composition root around example.v1.Readings. Options: tests/host/host.h. */
#include "tests/example/svc_readings.h"
#include "tests/host/host.h"

static void add(struct method_table *t)
{
	typed_table_add(t, svc_readings_methods, SVC_READINGS_METHODS);
}

int main(int argc, char **argv)
{
	return host_main("example-server", add, argc, argv);
}
