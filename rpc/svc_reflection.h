/* The services grpc.reflection.v1 and v1alpha.ServerReflection: let generic clients list and call everything without the .proto files. */
#ifndef ORDINAL_RPC_SVC_REFLECTION_H
#define ORDINAL_RPC_SVC_REFLECTION_H

#include "rpc/typed.h"

#define SVC_REFLECTION_METHODS 2
extern const struct typed_method svc_reflection_methods[SVC_REFLECTION_METHODS];

#endif
