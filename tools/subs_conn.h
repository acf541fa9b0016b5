/* One subscription on one socket: what subs.c and subs_conn.c share. Thread of its subs_thread only. */
#ifndef ORDINAL_TOOLS_SUBS_CONN_H
#define ORDINAL_TOOLS_SUBS_CONN_H

#include "rpc/wire/hpack.h"
#include "tools/subs.h"

#include <sys/types.h>

#define SUBS_BUF (192u << 10)        /* one receive; fits into a second-level cache */
#define SUBS_CIPHER (48u << 10)      /* one receive over TLS */
#define SUBS_WINDOW (64u << 20)      /* of HTTP/2, for stream and connection */
#define SUBS_MESSAGE_MAX (64u << 20) /* bytes of one message */
#define SUBS_EVERY 64                /* frames of a receive that are each timed and checked; */
#define SUBS_TIME_GROUP 8            /* beyond: timed by the first of so many, */
#define SUBS_CRC_GROUP 16            /* and one of so many has its CRC compared */

struct subs_conn {
	int fd;          /* -1: closed */
	struct tls *tls; /* NULL: cleartext */
	bool caught_up;
	/* HTTP/2: what is left of the DATA frame at hand; bytes since the last WINDOW_UPDATE. */
	uint32_t data_left;
	uint32_t window_used;
	bool data_last; /* the frame at hand ends the stream */
	bool headers_seen;
	struct hpack_decoder *hpack; /* made on first use */
	/* A header, a control frame (HTTP/2) or a unit (native) that was cut. */
	uint8_t *cut;
	size_t cut_n, cut_cap;
	/* A message that was cut; with prefix (HTTP/2). */
	uint8_t *part;
	size_t part_n, part_cap;
	struct subs_check check;
};

/* A socket that is connected, non-blocking. 0 or -errno, with t->why. */
int subs_conn_open(struct subs_thread *t, struct subs_conn *c);
/* Sends the request. */
int subs_conn_begin(struct subs_thread *t, struct subs_conn *c);
void subs_conn_close(struct subs_thread *t, struct subs_conn *c);
void subs_conn_free(struct subs_conn *c);
/* Reads once, and takes in what came. False: the subscription is over, and the connection closed. */
bool subs_conn_read(struct subs_thread *t, struct subs_conn *c);

/* subs_tls.c. The handshake, on a socket that blocks. 0; or -errno, with t->why of -EKEYREJECTED. */
int subs_tls_open(struct subs_thread *t, struct subs_conn *c);
/* All, at once; false: not all of it went. */
bool subs_tls_send(struct subs_conn *c, const void *p, size_t n);
/* As recv without waiting, of plaintext: all that one receive brought. */
ssize_t subs_tls_recv(struct subs_thread *t, struct subs_conn *c, uint8_t *to, size_t cap);
void subs_tls_close(struct subs_conn *c);

#endif
