/* Methods, and the table that a session looks a request up in. Filled once by the composition root, then read-only; any thread.
 *
 * A service joins with an array of `struct method` and one line in rpc/ordinald.c. */
#ifndef ORDINAL_RPC_METHOD_H
#define ORDINAL_RPC_METHOD_H

#include "core/base/bytes.h"

#define RPC_METHODS_MAX 64

struct call;

enum method_kind { METHOD_UNARY, METHOD_CLIENT_STREAM, METHOD_SERVER_STREAM, METHOD_BIDI };

/* Who may open a call, where there are rules of access (rpc/access.h). What is not said is for administrators. */
enum method_access {
	METHOD_FOR_ADMINS,
	METHOD_CHECKS,    /* anybody known: the service asks call_may about what the request names */
	METHOD_FOR_KNOWN, /* anybody known */
	METHOD_FOR_ALL,   /* anybody */
};

struct method {
	const char *service; /* "ordinal.v1.Ids" */
	const char *name;    /* "Next" */
	uint16_t number;     /* in native framing; 0: not reachable there */
	enum method_kind kind;
	enum method_access access;
	bool metadata; /* wants the request's metadata, or adds some to its answers: see call_extra */
	bool compress; /* offers compressed answers to clients that take them: see call.compress */
	/* The request's headers are in; messages follow. May be NULL. */
	void (*open)(struct call *c);
	/* One whole request message; `msg` is valid during the call. For unary and server-streaming methods the session has already seen the end of the
	 * request, and there is exactly one message. */
	void (*message)(struct call *c, struct span msg);
	/* The client will send no more. Only for client-streaming and bidirectional methods. */
	void (*half_close)(struct call *c);
	/* The call is over, through no act of the service's: forget it. Nothing may be sent on it any more. */
	void (*cancel)(struct call *c);
	/* call_send said false before, and there is room again. May be NULL. */
	void (*writable)(struct call *c);
};

struct method_table {
	const struct method *method[RPC_METHODS_MAX];
	uint32_t hash[RPC_METHODS_MAX]; /* of "/service/name" */
	unsigned count;
	uint16_t by_number[RPC_METHODS_MAX]; /* index + 1; 0: none */
};

/* Main thread. CHECKs that names and numbers are unique. */
void method_table_add(struct method_table *t, const struct method *methods, unsigned n);

/* The index of "/service/name", or -1. */
int method_find(const struct method_table *t, struct span path);
/* The index of a native method number, or -1. */
int method_find_number(const struct method_table *t, uint16_t number);
/* Whether any method belongs to the service named in "/service/name": tells an unknown method from an unknown service. */
bool method_service_exists(const struct method_table *t, struct span path);

#endif
