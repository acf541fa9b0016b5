/* Ordinal's native framing: a stream of frames.
 *
 * Holds: every header that is accepted is written back as the same bytes; every one that is not has a fault in its first two bytes. */
#include "rpc/wire/native.h"

#include "core/base/check.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	while (size >= NATIVE_HEADER) {
		struct native_header h;
		uint8_t out[NATIVE_HEADER];
		int r = native_get(data, &h);

		if (r < 0) {
			unsigned kind = data[1] & NATIVE_KIND_MASK;
			CHECK(r == -EPROTO);
			CHECK(data[0] != NATIVE_MAGIC || kind == 0 || kind > NATIVE_AUTH || data[1] >= 0x40);
			break;
		}
		native_put(out, h.kind | h.flags, h.code, h.len, h.call, h.arg);
		CHECK(memcmp(out, data, NATIVE_HEADER) == 0);
		data += NATIVE_HEADER;
		size -= NATIVE_HEADER;
		size_t skip = h.len < size ? h.len : size;
		data += skip;
		size -= skip;
	}
	return 0;
}
