/* The bytes of a journal: superblock, segment header, note, record. Pure; any thread; nothing here
 * allocates or reads a clock.
 *
 * All numbers little-endian. A segment file is one header block, then records, each beginning at a
 * multiple of 8:
 *
 *   segment 0 magic "ORDJSEG1" | 8 version u32 | 12 bytes u32 | 16 number u64 | 24 epoch u32 | 28 zero
 *          32 id 16 bytes (zeros in older files) | 508 crc u32
 *   note  512 magic "ORDJNOTE" | +8 number u64 | +16 seq u64 | +24 epoch u32 | +28 flags u32
 *          | +508 crc u32  (a sector of its own)
 *   record  0 header crc u32 | 4 crc u32 | 8 payload bytes u32 | 12 type u32 | 16 mark u64 | 24 seq u64
 *          32 durable u64 | 40 epoch u32 | 44 magic u16 | 46 kind u8 | 47 zero | 48 payload, zeros to a multiple of 8
 *   super   0 magic "ORDJRNL1" | 8 version u32 | 12 flags u32 | 16 generation u64 | 24 epoch u32 | 28 zero
 *          32 id 16 bytes | 48 manifest u64 | 56 entries u64 | 64 first u64 | 508 crc u32;  slot 0 at byte 0, slot 1 at byte 4096
 *   manifest  0 magic "ORDJMANI" | 8 version u32 | 16 generation u64 | 24 entries u64 | 32 id 16 bytes | 508 crc u32
 *          512 records, as in a segment whose number is the generation; payload: birth u32, name
 *
 * A superblock of version 1 has zeros for `manifest` and `entries`: its journal was made before there were manifests.
 *
 * `crc` covers the header from byte 8 and the payload, `header crc` the header from byte 4. Both
 * begin from a salt made of the journal's random id, the log's name, and the record's own place
 * (segment number and offset). So a record is valid only where it was written: what a recycled file
 * held before, a write gone astray, or bytes that a peer shaped like a record (it cannot know the
 * id) are never taken for one. The header's own CRC lets a length be believed before the payload is
 * read.
 * Source: RFC 3720 appendix B.4 (CRC-32C). */
#ifndef ORDINAL_CORE_JOURNAL_FORMAT_H
#define ORDINAL_CORE_JOURNAL_FORMAT_H

#include "core/base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JF_VERSION 1u
#define JF_SECTOR 512u       /* written whole or not at all */
#define JF_BLOCK 4096u       /* unit of direct writes */
#define JF_HEADER 4096u      /* bytes of a segment before its first record */
#define JF_NOTE_AT 512u      /* byte offset of the note in a segment */
#define JF_RECORD_HEADER 48u /* bytes of a record before its payload */
#define JF_ID_BYTES 16u
#define JF_BEGIN_PAYLOAD 16u
#define JF_TRIM_PAYLOAD 8u
#define JF_PAYLOAD_MAX (8u << 20)

enum jf_kind {
	JF_USER = 1,
	JF_BEGIN = 2, /* first of a segment; payload: wall clock ns i64, first live segment u64 */
	JF_TRIM = 3,  /* payload: first live segment u64 */
};

struct jf_record {
	uint64_t mark;
	uint64_t seq;     /* 1, 2, 3 ... through the whole life of the log */
	uint64_t durable; /* every record up to this one was known to be synced when this one was written; below seq */
	uint32_t len;     /* of the payload */
	uint32_t type;
	uint32_t epoch;
	uint8_t kind;
};

/* Where a record is, and what its log mixes into every CRC. */
struct jf_place {
	uint64_t segment;
	uint32_t offset;
	uint32_t salt;
};

/* Bytes that a record with this payload takes in a segment. */
static inline uint32_t jf_record_size(uint32_t len)
{
	return (JF_RECORD_HEADER + len + 7u) & ~7u;
}

/* A log's salt. */
uint32_t jf_salt(const uint8_t id[JF_ID_BYTES], const char *name);

/* Writes the header and the padding around a payload of rec->len bytes that is already at p + JF_RECORD_HEADER. */
void jf_record_encode(uint8_t *p, const struct jf_record *rec, const struct jf_place *at);
/* Reads the JF_RECORD_HEADER bytes at p; false: no record of this log begins at this place. */
bool jf_record_decode(const uint8_t *p, const struct jf_place *at, struct jf_record *ret);
/* Whether the payload belongs to the header at p (one that jf_record_decode has accepted). */
bool jf_payload_is_good(const uint8_t *p, const struct jf_place *at, struct span payload);

struct jf_segment {
	uint64_t number;
	uint32_t bytes;
	uint32_t epoch;
	uint8_t id[JF_ID_BYTES]; /* the journal's, so that people can be told whose a stray file is */
};

/* Fills JF_HEADER bytes; the note is left empty. */
void jf_segment_encode(uint8_t *p, const struct jf_segment *seg, uint32_t salt);
/* 0; -EBADMSG not a header of this log; -ENOTSUP of a newer format. Reads JF_SECTOR bytes. */
int jf_segment_decode(const uint8_t *p, uint32_t salt, struct jf_segment *ret);
/* Whether it is a header of the log called `name` in the journal that the header names, or in `id` if it names none.
 * *ret_id: that journal. */
bool jf_segment_is_of(const uint8_t *p, const uint8_t id[JF_ID_BYTES], const char *name, const uint8_t **ret_id);

/* seq is the first record of the next segment: that file has to be there */
#define JF_NOTE_SEALED 1u

struct jf_note {
	uint64_t number; /* of the segment that it is in */
	uint64_t seq;    /* every record up to this one was synced when the note was written */
	uint32_t epoch;
	uint32_t flags; /* unknown ones are ignored */
};

/* JF_SECTOR bytes, for JF_NOTE_AT. */
void jf_note_encode(uint8_t *p, const struct jf_note *note, uint32_t salt);
bool jf_note_decode(const uint8_t *p, uint32_t salt, struct jf_note *ret);

#define JF_SUPER_VERSION 2u
#define JF_SUPER_CLEAN 1u

struct jf_super {
	uint64_t generation; /* the valid slot with the higher one holds; slot = generation & 1 */
	uint32_t flags;
	uint32_t epoch; /* raised by every opening */
	uint8_t id[JF_ID_BYTES];
	/* Generation of the manifest, and how many records it had when this was written. 0: there is no manifest. */
	uint64_t manifest, entries;
	/* Number of the last record of journal_opts.first_log at the last clean close; 0: not known. */
	uint64_t first_seq;
};

/* JF_SECTOR bytes. The version is 2, or 1 when there is no manifest. */
void jf_super_encode(uint8_t *p, const struct jf_super *super);
/* 0, -EBADMSG or -ENOTSUP, as jf_segment_decode. */
int jf_super_decode(const uint8_t *p, struct jf_super *ret);

struct jf_manifest {
	uint64_t generation; /* rises with each file that takes the place of the one before */
	uint64_t entries;    /* records that were synced together with the header */
	uint8_t id[JF_ID_BYTES];
};

enum jf_manifest_type { JF_MANIFEST_ADD = 1, JF_MANIFEST_REMOVE = 2 };

/* JF_SECTOR bytes. */
void jf_manifest_encode(uint8_t *p, const struct jf_manifest *m);
/* 0, -EBADMSG or -ENOTSUP, as jf_segment_decode. The caller compares the id. */
int jf_manifest_decode(const uint8_t *p, struct jf_manifest *ret);

#endif
