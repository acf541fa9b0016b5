/* What fuzz targets with a script share: bytes taken one by one to decide what happens next, a buffer that grows, and HTTP/2 frames written into one. */
#ifndef ORDINAL_TESTS_FUZZ_SCRIPT_H
#define ORDINAL_TESTS_FUZZ_SCRIPT_H

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "rpc/wire/h2_frame.h"

#include <stdlib.h>
#include <string.h>

struct fuzz_script {
	const uint8_t *p;
	size_t left;
};

/* The next byte; 0 at the end. */
static inline uint8_t fuzz_byte(struct fuzz_script *s)
{
	if (!s->left)
		return 0;
	s->left--;
	return *s->p++;
}

/* len bytes at p, of which those before `at` have been read. */
struct fuzz_bytes {
	uint8_t *p;
	size_t at, len, cap;
};

static inline void fuzz_append(struct fuzz_bytes *b, const void *p, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = (b->len + n) * 2;
		b->p = realloc(b->p, b->cap);
		CHECK(b->p);
	}
	if (n)
		memcpy(b->p + b->len, p, n);
	b->len += n;
}

static inline void fuzz_put_frame(struct fuzz_bytes *to, uint8_t type, uint8_t flags, uint32_t stream, const void *p,
				  uint32_t n)
{
	uint8_t header[H2_FRAME_HEADER];
	h2_frame_put(header, n, type, flags, stream);
	fuzz_append(to, header, sizeof header);
	fuzz_append(to, p, n);
}

static inline void fuzz_put_u32(struct fuzz_bytes *to, uint8_t type, uint32_t stream, uint32_t value)
{
	uint8_t p[4];
	store_be32(p, value);
	fuzz_put_frame(to, type, 0, stream, p, sizeof p);
}

#endif
