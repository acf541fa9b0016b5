/* The service example.v1.Readings. */
#ifndef ORDINAL_TESTS_EXAMPLE_SVC_READINGS_H
#define ORDINAL_TESTS_EXAMPLE_SVC_READINGS_H

#include "rpc/typed.h"

#define SVC_READINGS_METHODS 2
extern const struct typed_method svc_readings_methods[SVC_READINGS_METHODS];

#endif
