/* The head of an HTTP/1.1 request (RFC 9112): request line and header fields, as spans into the bytes received. A strict reader: what two
 * servers could read in two ways is refused. Pure; any thread. */
#ifndef ORDINAL_RPC_WIRE_HTTP1_H
#define ORDINAL_RPC_WIRE_HTTP1_H

#include "core/base/bytes.h"

/* Fixed: what asks for a page of stats is far smaller, and is on this machine. */
#define HTTP1_HEAD_MAX 8192 /* bytes, with the empty line at the end */
#define HTTP1_HEADERS_MAX 64
#define HTTP1_METHOD_MAX 32

struct http1_header {
	struct span name;  /* as sent: compare without regard to case */
	struct span value; /* without white space around it; may be empty */
};

struct http1_request {
	struct span method;   /* "GET": upper and lower case differ */
	struct span target;   /* "/stats?x=y", "*", "http://host/": visible ASCII, never empty */
	uint8_t minor;        /* of the version HTTP/1.minor: 0 or 1 (higher ones are read as 1) */
	bool keep_alive;      /* the connection stays open after the answer, as far as the client goes */
	bool expect_continue; /* it waits for "100 Continue" before it sends the body */
	bool has_content_length;
	uint64_t content_length; /* of the body that follows the head; 0 without the header */
	uint32_t headers;
	struct http1_header header[HTTP1_HEADERS_MAX];
};

/* Reads a head from the beginning of a connection's unread bytes; call it again with more of them (from the same beginning) after
 * -EAGAIN. *ret is valid for as long as the bytes are, and undefined on failure.
 * The length of the head; the body follows it. Or:
 *   -EAGAIN           all well so far, but incomplete
 *   -EBADMSG          malformed                                          (answer 400)
 *   -EMSGSIZE         longer than HTTP1_HEAD_MAX                         (431)
 *   -E2BIG            more than HTTP1_HEADERS_MAX headers                (431)
 *   -EPROTONOSUPPORT  not HTTP/1.x                                       (505)
 *   -EOPNOTSUPP       a Transfer-Encoding: only Content-Length is spoken (501)
 * Malformed are, among others: a line that ends with a bare LF or holds a bare CR, folded headers, white space before the colon or
 * around the request line, control characters, a second Content-Length or Host, HTTP/1.1 without Host. */
int http1_request_get(const uint8_t *p, size_t n, struct http1_request *ret);

/* The status to answer with for an error of http1_request_get; 0 for -EAGAIN. */
unsigned http1_error_status(int error);

/* The value of the first header with this name (lower case or not); false, and *ret untouched, when there is none. */
bool http1_header_find(const struct http1_request *r, struct span name, struct span *ret);

/* Whether two strings are the same but for the case of ASCII letters. */
bool http1_is_same(struct span a, struct span b);

#endif
