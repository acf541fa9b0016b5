/* Encoders and decoders of the journal's bytes; the layout is drawn in journal_format.h.
 *
 * Invariant: what a decoder accepts was made by the encoder beside it, for the same log and the same place. Decoders
 * read only the bytes that their comments name, and take any bytes at all. Any thread.
 */
#include "core/journal_format.h"

#include "core/base/crc32c.h"

#include <errno.h>
#include <string.h>

#define RECORD_MAGIC 0x524au /* "JR" */
#define CRC_AT (JF_SECTOR - 4)
#define SEGMENT_ID_AT 32u

static const uint8_t segment_magic[8] = "ORDJSEG1";
static const uint8_t note_magic[8] = "ORDJNOTE";
static const uint8_t super_magic[8] = "ORDJRNL1";
static const uint8_t manifest_magic[8] = "ORDJMANI";

uint32_t jf_salt(const uint8_t id[JF_ID_BYTES], const char *name)
{
	return crc32c(crc32c(0, id, JF_ID_BYTES), name, strlen(name));
}

static uint32_t place_crc(const struct jf_place *at)
{
	uint8_t b[12];

	store_le64(b, at->segment);
	store_le32(b + 8, at->offset);
	return crc32c(at->salt, b, sizeof b);
}

void jf_record_encode(uint8_t *p, const struct jf_record *rec, const struct jf_place *at)
{
	uint32_t seed = place_crc(at);

	store_le32(p + 8, rec->len);
	store_le32(p + 12, rec->type);
	store_le64(p + 16, rec->mark);
	store_le64(p + 24, rec->seq);
	store_le64(p + 32, rec->durable);
	store_le32(p + 40, rec->epoch);
	store_le16(p + 44, RECORD_MAGIC);
	p[46] = rec->kind;
	p[47] = 0;
	store_le32(p + 4, crc32c(seed, p + 8, JF_RECORD_HEADER - 8 + (size_t)rec->len));
	store_le32(p, crc32c(seed, p + 4, JF_RECORD_HEADER - 4));
	memset(p + JF_RECORD_HEADER + rec->len, 0, jf_record_size(rec->len) - JF_RECORD_HEADER - rec->len);
}

bool jf_record_decode(const uint8_t *p, const struct jf_place *at, struct jf_record *ret)
{
	struct jf_record rec = {
		.len = load_le32(p + 8),
		.type = load_le32(p + 12),
		.mark = load_le64(p + 16),
		.seq = load_le64(p + 24),
		.durable = load_le64(p + 32),
		.epoch = load_le32(p + 40),
		.kind = p[46],
	};

	if (load_le16(p + 44) != RECORD_MAGIC || p[47] != 0 || rec.len > JF_PAYLOAD_MAX)
		return false;
	if (rec.kind < JF_USER || rec.kind > JF_TRIM || rec.seq == 0 || rec.durable >= rec.seq)
		return false;
	if (rec.kind == JF_BEGIN && rec.len != JF_BEGIN_PAYLOAD)
		return false;
	if (rec.kind == JF_TRIM && rec.len != JF_TRIM_PAYLOAD)
		return false;
	if (load_le32(p) != crc32c(place_crc(at), p + 4, JF_RECORD_HEADER - 4))
		return false;
	*ret = rec;
	return true;
}

bool jf_payload_is_good(const uint8_t *p, const struct jf_place *at, struct span payload)
{
	uint32_t crc = crc32c(place_crc(at), p + 8, JF_RECORD_HEADER - 8);

	return load_le32(p + 8) == payload.n && load_le32(p + 4) == crc32c(crc, payload.p, payload.n);
}

/* What every sector-sized structure shares: a magic, and a CRC in its last four bytes. */
static void sector_begin(uint8_t *p, const uint8_t magic[8])
{
	memset(p, 0, JF_SECTOR);
	memcpy(p, magic, 8);
}

static bool sector_is_good(const uint8_t *p, const uint8_t magic[8], uint32_t salt)
{
	return memcmp(p, magic, 8) == 0 && load_le32(p + CRC_AT) == crc32c(salt, p, CRC_AT);
}

void jf_segment_encode(uint8_t *p, const struct jf_segment *seg, uint32_t salt)
{
	memset(p, 0, JF_HEADER);
	sector_begin(p, segment_magic);
	store_le32(p + 8, JF_VERSION);
	store_le32(p + 12, seg->bytes);
	store_le64(p + 16, seg->number);
	store_le32(p + 24, seg->epoch);
	memcpy(p + SEGMENT_ID_AT, seg->id, JF_ID_BYTES);
	store_le32(p + CRC_AT, crc32c(salt, p, CRC_AT));
}

int jf_segment_decode(const uint8_t *p, uint32_t salt, struct jf_segment *ret)
{
	if (!sector_is_good(p, segment_magic, salt))
		return -EBADMSG;
	if (load_le32(p + 8) > JF_VERSION)
		return -ENOTSUP;
	*ret = (struct jf_segment){
		.bytes = load_le32(p + 12),
		.number = load_le64(p + 16),
		.epoch = load_le32(p + 24),
	};
	memcpy(ret->id, p + SEGMENT_ID_AT, JF_ID_BYTES);
	return 0;
}

bool jf_segment_is_of(const uint8_t *p, const uint8_t id[JF_ID_BYTES], const char *name, const uint8_t **ret_id)
{
	static const uint8_t none[JF_ID_BYTES];
	const uint8_t *of = memcmp(p + SEGMENT_ID_AT, none, sizeof none) != 0 ? p + SEGMENT_ID_AT : id;

	*ret_id = of;
	return sector_is_good(p, segment_magic, jf_salt(of, name));
}

void jf_note_encode(uint8_t *p, const struct jf_note *note, uint32_t salt)
{
	sector_begin(p, note_magic);
	store_le64(p + 8, note->number);
	store_le64(p + 16, note->seq);
	store_le32(p + 24, note->epoch);
	store_le32(p + 28, note->flags);
	store_le32(p + CRC_AT, crc32c(salt, p, CRC_AT));
}

bool jf_note_decode(const uint8_t *p, uint32_t salt, struct jf_note *ret)
{
	if (!sector_is_good(p, note_magic, salt))
		return false;
	*ret = (struct jf_note){
		.number = load_le64(p + 8),
		.seq = load_le64(p + 16),
		.epoch = load_le32(p + 24),
		.flags = load_le32(p + 28),
	};
	return true;
}

void jf_super_encode(uint8_t *p, const struct jf_super *super)
{
	sector_begin(p, super_magic);
	store_le32(p + 8, super->manifest != 0 ? JF_SUPER_VERSION : 1);
	store_le32(p + 12, super->flags);
	store_le64(p + 16, super->generation);
	store_le32(p + 24, super->epoch);
	memcpy(p + 32, super->id, JF_ID_BYTES);
	store_le64(p + 48, super->manifest);
	store_le64(p + 56, super->manifest != 0 ? super->entries : 0);
	store_le64(p + 64, super->manifest != 0 ? super->first_seq : 0);
	store_le32(p + CRC_AT, crc32c(0, p, CRC_AT));
}

int jf_super_decode(const uint8_t *p, struct jf_super *ret)
{
	if (!sector_is_good(p, super_magic, 0))
		return -EBADMSG;
	if (load_le32(p + 8) > JF_SUPER_VERSION)
		return -ENOTSUP;
	*ret = (struct jf_super){
		.flags = load_le32(p + 12),
		.generation = load_le64(p + 16),
		.epoch = load_le32(p + 24),
		.manifest = load_le64(p + 48),
		.entries = load_le64(p + 56),
		.first_seq = load_le64(p + 64),
	};
	memcpy(ret->id, p + 32, JF_ID_BYTES);
	return 0;
}

void jf_manifest_encode(uint8_t *p, const struct jf_manifest *m)
{
	sector_begin(p, manifest_magic);
	store_le32(p + 8, JF_VERSION);
	store_le64(p + 16, m->generation);
	store_le64(p + 24, m->entries);
	memcpy(p + 32, m->id, JF_ID_BYTES);
	store_le32(p + CRC_AT, crc32c(0, p, CRC_AT));
}

int jf_manifest_decode(const uint8_t *p, struct jf_manifest *ret)
{
	if (!sector_is_good(p, manifest_magic, 0))
		return -EBADMSG;
	if (load_le32(p + 8) > JF_VERSION)
		return -ENOTSUP;
	*ret = (struct jf_manifest){.generation = load_le64(p + 16), .entries = load_le64(p + 24)};
	memcpy(ret->id, p + 32, JF_ID_BYTES);
	return 0;
}
