/* Metadata: lists, and the base64 of binary values.
 *
 * Holds: what is added is found again, in order, and nothing else; base64 that is read is written back the same, but for padding; bytes that are written
 * are read back the same. */
#include "rpc/metadata.h"

#include "core/base/check.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_base64(struct span in)
{
	size_t cap = 4 * ((in.n + 2) / 3) + 1;
	uint8_t *bytes = malloc(cap), *back = malloc(in.n + 1);
	char *text = malloc(cap);
	CHECK(bytes && back && text);
	size_t n = metadata_bin_put(text, in);
	CHECK(n <= cap && metadata_bin_get(back, in.n, (struct span){(uint8_t *)text, n}) == in.n);
	CHECK(in.n == 0 || memcmp(back, in.p, in.n) == 0);
	CHECK(in.n == 0 || metadata_bin_get(back, in.n - 1, (struct span){(uint8_t *)text, n}) == SIZE_MAX);
	n = metadata_bin_get(bytes, cap, in);
	if (n != SIZE_MAX) {
		size_t bare = in.n;
		CHECK(n <= in.n);
		while (bare && in.p[bare - 1] == '=')
			bare--;
		CHECK(metadata_bin_put(text, (struct span){bytes, n}) == bare);
		/* The last character may have had bits that no byte takes. */
		CHECK(bare < 2 || memcmp(text, in.p, bare - 1) == 0);
	}
	free(bytes);
	free(back);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct metadata m = {0};
	struct {
		struct span name, value;
	} added[64];
	unsigned n = 0, seen = 0;
	try_base64((struct span){data, size});
	while (size >= 2 && n < 64) {
		size_t a = data[0] % 16, b = data[1];
		data += 2;
		size -= 2;
		a = a < size ? a : size;
		b = b < size - a ? b : size - a;
		added[n].name = (struct span){data, a};
		added[n].value = (struct span){data + a, b};
		metadata_is_valid(added[n].name, added[n].value);
		CHECK(metadata_add(&m, added[n].name, added[n].value));
		n++;
		data += a + b;
		size -= a + b;
	}
	struct span name, value;
	for (uint32_t at = 0; metadata_next(&m, &at, &name, &value); seen++)
		CHECK(seen < n && span_eq(name, added[seen].name) && span_eq(value, added[seen].value));
	CHECK(seen == n);
	for (unsigned i = 0; i < n; i++) {
		unsigned nth = 0;
		for (unsigned k = 0; k < i; k++)
			nth += span_eq(added[k].name, added[i].name);
		CHECK(metadata_get(&m, added[i].name, nth, &value) && span_eq(value, added[i].value));
	}
	metadata_free(&m);
	return 0;
}
