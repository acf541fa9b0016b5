/* Server reflection; see the header. Runs on the shard, without state: each request of a stream is answered at once. Both versions of the protocol
 * have the same messages, so one handler on v1's types serves both. Source: gRPC's server-reflection.md. */
#include "rpc/svc_reflection.h"
#include "core/base/check.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/descriptors.h"

#include <string.h>

enum { FILES_MAX = 64 /* of our own: checked, and nothing that a client can change */ };

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

/* Adds a file and all that it imports, each once. `list` may be NULL. */
static void gather(unsigned file, uint64_t *seen, ProtobufCBinaryData *list, size_t *n)
{
	if (*seen >> file & 1)
		return;
	*seen |= UINT64_C(1) << file;
	const struct descriptor_file *f = &descriptor_files[file];
	if (list)
		list[(*n)++] = (ProtobufCBinaryData){f->n, (uint8_t *)(uintptr_t)f->bytes};
	for (const uint16_t *i = f->imports; *i != DESCRIPTOR_END; i++)
		gather(*i, seen, list, n);
}

static bool is_served(const struct call *c, const char *service)
{
	for (unsigned i = 0; i < c->rpc->methods->count; i++) {
		if (strcmp(c->rpc->methods->method[i]->service, service) == 0)
			return true;
	}
	return false;
}

/* The files that this server tells of, a bit each: those with a service that it serves, and what these import. */
static uint64_t told_files(const struct call *c)
{
	uint64_t told = 0;
	CHECK(descriptor_file_count <= FILES_MAX);
	for (unsigned i = 0; i < descriptor_file_count; i++) {
		for (const char *const *s = descriptor_files[i].services; *s; s++) {
			if (is_served(c, *s))
				gather(i, &told, NULL, NULL);
		}
	}
	return told;
}

static int find_file(const struct call *c, const char *name)
{
	uint64_t told = told_files(c);
	for (unsigned i = 0; i < descriptor_file_count; i++) {
		if (told >> i & 1 && strcmp(descriptor_files[i].name, name) == 0)
			return (int)i;
	}
	return -1;
}

/* Whether it is a service of the file, or a method of one, that is not served. */
static bool is_unserved(const struct call *c, const struct descriptor_file *f, const char *symbol)
{
	for (const char *const *s = f->services; *s; s++) {
		size_t n = strlen(*s);
		if (strncmp(symbol, *s, n) == 0 && (symbol[n] == 0 || symbol[n] == '.'))
			return !is_served(c, *s);
	}
	return false;
}

static int find_symbol(const struct call *c, const char *symbol)
{
	uint64_t told = told_files(c);
	for (unsigned i = 0; i < descriptor_file_count; i++) {
		const struct descriptor_file *f = &descriptor_files[i];
		for (const char *const *s = told >> i & 1 ? f->symbols : NULL; s && *s; s++) {
			if (strcmp(*s, symbol) == 0)
				return is_unserved(c, f, symbol) ? -1 : (int)i;
		}
	}
	return -1;
}

/* A client that does not read its answers is not read from either. */
static void answer(struct call *c, Response *r)
{
	if (!typed_send(c, &r->base) && c->live)
		c->ops->pause(c);
}

static void answer_error(struct call *c, Response *r, enum grpc_status code, const char *text)
{
	Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	e.error_code = (int32_t)code;
	e.error_message = (char *)(uintptr_t)text;
	r->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	r->error_response = &e;
	answer(c, r);
	r->error_response = NULL; /* it pointed here */
}

static void answer_file(struct call *c, Response *r, int file)
{
	ProtobufCBinaryData list[FILES_MAX];
	uint64_t seen = 0;
	Grpc__Reflection__V1__FileDescriptorResponse f = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
	if (file < 0) {
		answer_error(c, r, GRPC_NOT_FOUND, "there is no such file or symbol here");
		return;
	}
	f.file_descriptor_proto = list;
	gather((unsigned)file, &seen, list, &f.n_file_descriptor_proto);
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
	r->file_descriptor_response = &f;
	answer(c, r);
	r->file_descriptor_response = NULL; /* it pointed here */
}

static void answer_services(struct call *c, Response *r)
{
	const struct method_table *t = c->rpc->methods;
	Grpc__Reflection__V1__ServiceResponse services[RPC_METHODS_MAX], *list[RPC_METHODS_MAX];
	Grpc__Reflection__V1__ListServiceResponse l = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
	for (unsigned i = 0; i < t->count; i++) {
		unsigned k = 0;
		while (k < l.n_service && strcmp(services[k].name, t->method[i]->service) != 0)
			k++;
		if (k < l.n_service)
			continue;
		grpc__reflection__v1__service_response__init(&services[k]);
		services[k].name = (char *)(uintptr_t)t->method[i]->service;
		list[l.n_service++] = &services[k];
	}
	l.service = list;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	r->list_services_response = &l;
	answer(c, r);
	r->list_services_response = NULL; /* it pointed here */
}

/* proto3 has no extensions but custom options, of which there are none here. */
static void answer_extensions(struct call *c, Response *r, const char *type)
{
	Grpc__Reflection__V1__ExtensionNumberResponse e = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
	if (find_symbol(c, type) < 0) {
		answer_error(c, r, GRPC_NOT_FOUND, "there is no such type here");
		return;
	}
	e.base_type_name = (char *)(uintptr_t)type;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
	r->all_extension_numbers_response = &e;
	answer(c, r);
	r->all_extension_numbers_response = NULL; /* it pointed here */
}

static void info(struct call *c, const ProtobufCMessage *m)
{
	const Request *req = (const Request *)m;
	Response r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	r.valid_host = req->host;
	r.original_request = (Request *)(uintptr_t)req;
	switch (req->message_request_case) {
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		answer_file(c, &r, find_file(c, req->file_by_filename));
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		answer_file(c, &r, find_symbol(c, req->file_containing_symbol));
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
		answer_error(c, &r, GRPC_NOT_FOUND, "there are no extensions here");
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
		answer_extensions(c, &r, req->all_extension_numbers_of_type);
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
		answer_services(c, &r);
		break;
	default:
		answer_error(c, &r, GRPC_INVALID_ARGUMENT, "the request asks for nothing that reflection knows");
	}
}

static void info_writable(struct call *c)
{
	c->ops->resume(c);
}

static void info_end(struct call *c)
{
	call_finish(c, GRPC_OK, (struct span){0});
}

const struct typed_method svc_reflection_methods[SVC_REFLECTION_METHODS] = {
	{TYPED("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", METHOD_BIDI, .access = METHOD_FOR_KNOWN,
	       .half_close = info_end, .writable = info_writable),
	 &grpc__reflection__v1__server_reflection_request__descriptor, info},
	{TYPED("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", METHOD_BIDI,
	       .access = METHOD_FOR_KNOWN, .half_close = info_end, .writable = info_writable),
	 &grpc__reflection__v1__server_reflection_request__descriptor, info},
};
