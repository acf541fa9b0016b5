/* core/journal_format: every field travels, every flipped bit is noticed, a record is valid in its own place only. */
#include "core/journal_format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const uint8_t id[JF_ID_BYTES] = "0123456789abcde";

static void a_record_comes_back_as_it_was(void **state)
{
	uint8_t b[256];

	for (uint32_t len = 0; len < 100; len++) {
		struct jf_place at = {.segment = 7, .offset = 4096, .salt = jf_salt(id, "x")};
		struct jf_record rec = {
			.mark = UINT64_MAX - 1,
			.seq = 1000 + len,
			.durable = 999,
			.len = len,
			.type = 0xdeadbeef,
			.epoch = 77,
			.kind = JF_USER,
		};
		struct jf_record got;

		memset(b, 0xee, sizeof b);
		for (uint32_t i = 0; i < len; i++)
			b[JF_RECORD_HEADER + i] = (uint8_t)(i * 7);
		jf_record_encode(b, &rec, &at);
		assert_int_equal(jf_record_size(len) % 8, 0);
		for (uint32_t i = JF_RECORD_HEADER + len; i < jf_record_size(len); i++)
			assert_int_equal(b[i], 0);
		assert_int_equal(b[jf_record_size(len)], 0xee);
		assert_true(jf_record_decode(b, &at, &got));
		assert_int_equal(got.mark, rec.mark);
		assert_int_equal(got.seq, rec.seq);
		assert_int_equal(got.durable, rec.durable);
		assert_int_equal(got.len, len);
		assert_int_equal(got.type, rec.type);
		assert_int_equal(got.epoch, rec.epoch);
		assert_int_equal(got.kind, rec.kind);
		assert_true(jf_payload_is_good(b, &at, (struct span){b + JF_RECORD_HEADER, len}));
	}
}

static void every_bit_of_a_record_counts(void **state)
{
	struct jf_place at = {.segment = 7, .offset = 8192, .salt = jf_salt(id, "x")};
	struct jf_record rec = {.mark = 5, .seq = 9, .durable = 8, .len = 33, .type = 1, .epoch = 2, .kind = JF_USER},
			 got;
	uint8_t b[128] = {0};

	jf_record_encode(b, &rec, &at);
	for (uint32_t bit = 0; bit < (JF_RECORD_HEADER + rec.len) * 8; bit++) {
		bool good;

		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		good = jf_record_decode(b, &at, &got) &&
		       jf_payload_is_good(b, &at, (struct span){b + JF_RECORD_HEADER, rec.len});
		if (good)
			fail_msg("bit %u does not count", bit);
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void a_record_is_valid_in_its_place_only(void **state)
{
	const struct jf_place at = {.segment = 7, .offset = 8192, .salt = jf_salt(id, "x")};
	struct jf_record rec = {.mark = 5, .seq = 9, .durable = 8, .len = 0, .type = 1, .epoch = 2, .kind = JF_USER},
			 got;
	uint8_t other_id[JF_ID_BYTES] = {0};
	struct jf_place other;
	uint8_t b[64];

	jf_record_encode(b, &rec, &at);
	assert_true(jf_record_decode(b, &at, &got));
	other = at;
	other.segment++;
	assert_false(jf_record_decode(b, &other, &got));
	other = at;
	other.offset += 8;
	assert_false(jf_record_decode(b, &other, &got));
	other = at;
	other.salt = jf_salt(id, "y");
	assert_false(jf_record_decode(b, &other, &got));
	other.salt = jf_salt(other_id, "x");
	assert_false(jf_record_decode(b, &other, &got));
}

static void senseless_records_are_refused(void **state)
{
	const struct jf_place at = {.segment = 1, .offset = 4096, .salt = 3};
	const struct jf_record bad[] = {
		{.seq = 0, .kind = JF_USER},
		{.seq = 5, .durable = 5, .kind = JF_USER},
		{.seq = 5, .kind = 0},
		{.seq = 5, .kind = JF_TRIM + 1},
		{.seq = 5, .kind = JF_BEGIN, .len = JF_BEGIN_PAYLOAD + 1},
		{.seq = 5, .kind = JF_TRIM, .len = 0},
	};
	struct jf_record got;
	uint8_t b[128];

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		memset(b, 0, sizeof b);
		jf_record_encode(b, &bad[i], &at);
		assert_false(jf_record_decode(b, &at, &got));
	}
	memset(b, 0, sizeof b);
	assert_false(jf_record_decode(b, &at, &got)); /* what a file is filled with */
}

static void segment_headers_travel_and_every_bit_counts(void **state)
{
	struct jf_segment seg = {.number = UINT64_C(0x123456789abc), .bytes = 1 << 20, .epoch = 3}, got;
	uint8_t b[JF_HEADER];

	jf_segment_encode(b, &seg, 42);
	assert_int_equal(jf_segment_decode(b, 42, &got), 0);
	assert_int_equal(got.number, seg.number);
	assert_int_equal(got.bytes, seg.bytes);
	assert_int_equal(got.epoch, seg.epoch);
	assert_int_equal(jf_segment_decode(b, 43, &got), -EBADMSG);
	for (uint32_t bit = 0; bit < JF_SECTOR * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(jf_segment_decode(b, 42, &got), -EBADMSG);
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void notes_and_superblocks_travel_and_every_bit_counts(void **state)
{
	struct jf_note note = {.number = 4, .seq = 1ull << 40, .epoch = 9}, got;
	struct jf_super super = {.generation = 12, .flags = JF_SUPER_CLEAN, .epoch = 13}, sgot;
	uint8_t b[JF_SECTOR], c[JF_SECTOR];

	memcpy(super.id, id, sizeof id);
	jf_note_encode(b, &note, 1);
	jf_super_encode(c, &super);
	assert_true(jf_note_decode(b, 1, &got));
	assert_int_equal(got.number, note.number);
	assert_int_equal(got.seq, note.seq);
	assert_int_equal(got.epoch, note.epoch);
	assert_int_equal(jf_super_decode(c, &sgot), 0);
	assert_int_equal(sgot.generation, super.generation);
	assert_int_equal(sgot.flags, super.flags);
	assert_int_equal(sgot.epoch, super.epoch);
	assert_memory_equal(sgot.id, id, sizeof id);
	for (uint32_t bit = 0; bit < JF_SECTOR * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		c[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(jf_note_decode(b, 1, &got));
		assert_int_equal(jf_super_decode(c, &sgot), -EBADMSG);
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		c[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Files of before: a superblock without a manifest, a segment without the journal's id. */
static void what_older_versions_wrote_is_read(void **state)
{
	struct jf_super super = {.generation = 12, .epoch = 13}, got;
	uint8_t b[JF_SECTOR];

	jf_super_encode(b, &super);
	assert_int_equal(load_le32(b + 8), 1);
	assert_int_equal(jf_super_decode(b, &got), 0);
	assert_int_equal(got.manifest, 0);
	super.first_seq = 77;
	super.manifest = 3;
	super.entries = UINT64_C(1) << 33;
	jf_super_encode(b, &super);
	assert_int_equal(load_le32(b + 8), 2); /* which an older version refuses */
	assert_int_equal(jf_super_decode(b, &got), 0);
	assert_int_equal(got.manifest, 3);
	assert_int_equal(got.first_seq, 77);
	assert_int_equal(got.entries, UINT64_C(1) << 33);
}

static void a_manifests_header_travels_and_every_bit_counts(void **state)
{
	struct jf_manifest m = {.generation = UINT64_C(1) << 40, .entries = 100000}, got;
	uint8_t b[JF_SECTOR];

	memcpy(m.id, id, sizeof id);
	jf_manifest_encode(b, &m);
	assert_int_equal(jf_manifest_decode(b, &got), 0);
	assert_int_equal(got.generation, m.generation);
	assert_int_equal(got.entries, m.entries);
	assert_memory_equal(got.id, id, sizeof id);
	for (uint32_t bit = 0; bit < JF_SECTOR * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(jf_manifest_decode(b, &got), -EBADMSG);
		b[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void a_stray_segment_tells_whose_it_is(void **state)
{
	static const uint8_t other[JF_ID_BYTES] = "another journal";
	struct jf_segment seg = {.number = 1, .bytes = 1 << 20, .epoch = 3};
	const uint8_t *of;
	uint8_t b[JF_HEADER];

	jf_segment_encode(b, &seg, jf_salt(id, "a")); /* as older versions did */
	assert_true(jf_segment_is_of(b, id, "a", &of) && of == id);
	assert_false(jf_segment_is_of(b, id, "b", &of));
	assert_false(jf_segment_is_of(b, other, "a", &of));
	memcpy(seg.id, other, sizeof seg.id);
	jf_segment_encode(b, &seg, jf_salt(other, "a"));
	assert_true(jf_segment_is_of(b, id, "a", &of));
	assert_memory_equal(of, other, JF_ID_BYTES);
	assert_false(jf_segment_is_of(b, id, "b", &of));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_comes_back_as_it_was),
		cmocka_unit_test(every_bit_of_a_record_counts),
		cmocka_unit_test(a_record_is_valid_in_its_place_only),
		cmocka_unit_test(senseless_records_are_refused),
		cmocka_unit_test(segment_headers_travel_and_every_bit_counts),
		cmocka_unit_test(notes_and_superblocks_travel_and_every_bit_counts),
		cmocka_unit_test(what_older_versions_wrote_is_read),
		cmocka_unit_test(a_manifests_header_travels_and_every_bit_counts),
		cmocka_unit_test(a_stray_segment_tells_whose_it_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
