/* gzip (RFC 1952) of whole messages, over zlib, with a bound on what inflating may yield. One codec a shard: its zlib state is made on first use and
 * reused. Owner thread only. */
#ifndef ORDINAL_RPC_GZIP_H
#define ORDINAL_RPC_GZIP_H

#include "core/base/bytes.h"

struct gzip;

struct gzip *gzip_new(void);
void gzip_free(struct gzip *g);

/* Inflates one gzip stream into memory of the codec's, valid until its next call. 0; -EMSGSIZE: by its own trailer more than `max` bytes; -EBADMSG: not one
 * whole gzip stream, or not of the size in its trailer; -ENOMEM. */
int gzip_inflate(struct gzip *g, struct span in, size_t max, struct span *ret);
/* Deflates, likewise; into other memory than gzip_inflate's. 0 or -ENOMEM. */
int gzip_deflate(struct gzip *g, struct span in, struct span *ret);

#endif
