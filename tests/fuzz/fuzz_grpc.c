/* gRPC's text formats, and gzip: the bytes as a status, as a timeout, as a number of nanoseconds, as a message to encode and as one to decode.
 *
 * Holds: a status is one of gRPC's; a timeout that is accepted and written again is no shorter, and at most 1 / 27,000 longer; encoding yields printable ASCII that
 * decodes to the same bytes; no capacity is overrun; a cut message is a beginning of the whole; what is deflated
 * inflates to itself, and never to more than is allowed. */
#include "rpc/wire/grpc.h"

#include "core/base/check.h"
#include "rpc/gzip.h"
#include "tests/fuzz/memory.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_timeout(uint64_t ns)
{
	char *out = malloc(10);
	uint64_t back;

	CHECK(out);
	size_t n = grpc_timeout_put(out, ns);
	CHECK(n >= 2 && n <= 9);
	CHECK(grpc_timeout_get((struct span){(uint8_t *)out, n}, &back) == 0);
	CHECK(back >= ns && back - ns <= ns / 27000);
	free(out);
}

static void fuzz_message(struct span text)
{
	size_t cap = 3 * text.n, part = text.n ? text.p[0] : 0;
	char *encoded = malloc(cap + 1), *decoded = malloc(cap + 1), *cut = malloc(part + 1);

	CHECK(encoded && decoded && cut);
	size_t n = grpc_percent_encode(encoded, cap, text);
	for (size_t i = 0; i < n; i++)
		CHECK(encoded[i] >= 0x20 && encoded[i] <= 0x7e);
	CHECK(grpc_percent_decode(decoded, cap, (struct span){(uint8_t *)encoded, n}) == text.n);
	CHECK(text.n == 0 || memcmp(decoded, text.p, text.n) == 0);
	size_t k = grpc_percent_encode(cut, part, text);
	CHECK(k <= part && k <= n && memcmp(cut, encoded, k) == 0);
	CHECK(grpc_percent_decode(decoded, cap, text) <= text.n);
	free(cut);
	free(decoded);
	free(encoded);
}

/* With one allocation failing, the nth: 0 or -ENOMEM. */
static int deflate_short(struct gzip *g, struct span in, unsigned nth, struct span *ret)
{
	memory_fail(nth);
	memory_watch(true);
	int r = gzip_deflate(g, in, ret);
	memory_watch(false);
	memory_fail(0);
	return r;
}

static int inflate_short(struct gzip *g, struct span in, size_t max, unsigned nth, struct span *ret)
{
	memory_fail(nth);
	memory_watch(true);
	int r = gzip_inflate(g, in, max, ret);
	memory_watch(false);
	memory_fail(0);
	return r;
}

/* Deflates and inflates again; the codec has two buffers, so `in` may be what it has inflated only if `copy` is a codec of its own. */
static void check_round(struct gzip *g, struct gzip *copy, struct span in)
{
	struct span deflated, out;

	CHECK(gzip_deflate(g, in, &deflated) == 0);
	CHECK(gzip_inflate(copy, deflated, in.n, &out) == 0 && out.n == in.n);
	CHECK(in.n == 0 || memcmp(out.p, in.p, in.n) == 0);
	CHECK(in.n == 0 || gzip_inflate(copy, deflated, in.n - 1, &out) == -EMSGSIZE);
	/* its last bytes may say anything */
	CHECK(gzip_inflate(copy, (struct span){deflated.p, deflated.n - 1}, in.n, &out) != 0);
}

/* Two bytes of gzip's header that inflate ignores say what is allowed, and which allocation fails. */
static void fuzz_gzip(struct span in)
{
	static struct gzip *g, *other;
	struct span out;
	size_t max = in.n > 9 ? (size_t)64 << in.p[9] % 17 : 0;
	unsigned nth = in.n > 9 ? in.p[8] % 4 : 0;

	if (!g) {
		g = gzip_new();
		other = gzip_new();
	}
	CHECK(g && other);
	int r = inflate_short(g, in, max, nth, &out);
	CHECK(r == -EBADMSG || r == -EMSGSIZE || (r == 0 && out.n <= max) || (r == -ENOMEM && nth));
	if (r == -ENOMEM) { /* and the codec is as good as before */
		r = gzip_inflate(g, in, max, &out);
		CHECK(r == -EBADMSG || (r == 0 && out.n <= max));
	}
	if (r == 0)
		check_round(g, other, out);
	r = deflate_short(g, in, nth, &out);
	CHECK(r == 0 || (r == -ENOMEM && nth));
	check_round(g, g, in);
	if (in.n % 16 == 0) { /* the next has to do with a fresh one */
		gzip_free(g);
		gzip_free(other);
		g = other = NULL;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t ns;
	int r = grpc_timeout_get((struct span){data, size}, &ns);

	CHECK(r == 0 || r == -EINVAL);
	if (r == 0)
		fuzz_timeout(ns);
	if (size >= 8)
		fuzz_timeout(load_le64(data));
	CHECK(grpc_status_get((struct span){data, size}) < GRPC_STATUS_COUNT);
	fuzz_message((struct span){data, size});
	fuzz_gzip((struct span){data, size});
	return 0;
}
