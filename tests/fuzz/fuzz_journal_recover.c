/* Recovery of a log from a directory that somebody else made up.
 *
 * The input is a list of small edits to a directory that begins with a true history: records with valid checksums
 * anywhere, with any numbers; notes; flipped bytes; files cut, lost and added; and the same for the manifest. Holds:
 * opening gives success, or -EBADMSG with a sentence that names a byte, or -ENOENT for a log without a segment that the
 * manifest names, nothing else; what was refused is refused again, unchanged; what was accepted has rising marks, can be appended to, and gives the same and the new record, no more and no less, after a
 * power cut right after the acknowledgement. */
#include "core/journal_internal.h"
#include "tests/unit/core/sim_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NEW_TYPE 0x4e455721u
#define OPENED_TYPE 0x4f504e21u

struct history {
	uint64_t n, last;
	bool has_new;
	uint64_t sum;
	unsigned opened; /* records that an opening asked for */
};

static const uint8_t much[3000]; /* seven of them begin another segment */
static unsigned asks;            /* how many more this opening asks for */

static int opened(void *ctx, uint64_t mark, struct jappend *ret)
{
	CHECK(mark >= ((const struct history *)ctx)->last);
	if (asks == 0)
		return 0;
	asks--;
	ret->type = OPENED_TYPE;
	ret->mark = mark;
	ret->body = (struct span){much, sizeof much};
	return 1;
}

static int replay(void *ctx, const struct jrecord *rec)
{
	struct history *h = ctx;

	CHECK(rec->mark >= h->last);
	h->last = rec->mark;
	if (rec->type == OPENED_TYPE) {
		CHECK(span_eq(rec->payload, (struct span){much, sizeof much}));
		h->opened++;
		return 0;
	}
	CHECK(!h->has_new);
	h->n++;
	h->sum = h->sum * 31 + rec->mark + rec->payload.n;
	h->has_new = rec->type == NEW_TYPE;
	return 0;
}

/* A life: opens; appends one record if asked to; ends without a clean close. 0 or the opening's error. */
static int live(struct sim *sim, struct doorbell *bell, bool append, struct history *ret, uint32_t *ret_salt)
{
	struct journal_disk disk = sim_disk(sim);
	struct journal_opts o = {.dir = "sim", .method = JOURNAL_FDATASYNC, .group_max = 4096, .disk = &disk};
	struct jlog_opts lo = {
		.name = "x", .segment_bytes = JOURNAL_SEGMENT_MIN, .replay = replay, .opened = opened, .ctx = ret};
	struct journal_port *port;
	struct journal *j;
	struct jlog *log;
	const char *why = "";
	bool worked;
	int err;

	memset(ret, 0, sizeof *ret);
	err = journal_open(&o, &j, &why);
	if (err != 0) {
		CHECK(err == -EBADMSG && strstr(why, "sim/.manifest: damaged at byte ") != NULL);
		sim->locked = false;
		return err;
	}
	err = journal_log_open(j, &lo, &log, &why);
	if (err == -ENOENT) {
		CHECK(strstr(why, "sim/x: ") != NULL && strstr(why, "the manifest says") != NULL);
	} else if (err != 0) {
		CHECK(err == -EBADMSG && strstr(why, "sim/x/") != NULL && strstr(why, "at byte ") != NULL);
	} else {
		*ret_salt = log->salt;
		CHECK(jlog_durable(log) >= ret->last);
		CHECK(journal_port_new(j, bell, 8, &port) == 0);
		for (uint64_t i = 0; append && i < 4; i++)
			CHECK(journal_append(port, log, i < 3 ? 0 : NEW_TYPE, jlog_durable(log), "abc", 3));
		for (worked = append; worked;)
			CHECK(journal_turn(j, &worked) == 0);
	}
	sim->dead = true;
	journal_close(j);
	sim->dead = false;
	return err;
}

static void put(struct sim_file *f, uint64_t at, const uint8_t *p, size_t n)
{
	sim_put(&f->now, &f->now_n, &f->now_cap, at, p, n);
	sim_put(&f->safe, &f->safe_n, &f->safe_cap, at, p, n);
}

static void put_record(struct sim_file *f, uint64_t segment, uint32_t salt, const uint8_t *e)
{
	struct jf_place at = {.segment = segment, .offset = JF_HEADER + (load_le16(e + 2) % 256u) * 8, .salt = salt};
	struct jf_record rec = {
		.mark = e[4] >> 2,
		.seq = e[5] + 1u,
		.durable = e[6],
		.epoch = 1 + (e[7] & 7),
		.kind = (uint8_t)(1 + e[1] % 3),
		.len = e[7] >> 3,
	};
	uint8_t b[128] = {0};

	if (rec.kind != JF_USER)
		rec.len = rec.kind == JF_BEGIN ? JF_BEGIN_PAYLOAD : JF_TRIM_PAYLOAD;
	if (rec.kind == JF_BEGIN)
		b[JF_RECORD_HEADER + 8] = e[4] & 3;
	else
		b[JF_RECORD_HEADER] = e[4] & 3;
	jf_record_encode(b, &rec, &at);
	put(f, at.offset, b, jf_record_size(rec.len));
}

/* The manifest's file: its id is the header's. */
static void edit_manifest(struct sim *sim, const uint8_t *e)
{
	static const char *const names[] = {"x", "y", "", "."};
	const char *name = names[e[7] >> 6];
	struct sim_file *f = sim_content(sim, ".manifest");
	struct jf_place at = {.segment = 1 + e[1] / 128, .offset = JF_SECTOR + (load_le16(e + 2) % 64u) * 8};
	struct jf_record rec = {.seq = e[5] + 1u,
				.durable = e[6],
				.epoch = 1,
				.kind = JF_USER,
				.type = e[1] & 3,
				.len = 4 + strlen(name)};
	struct jf_manifest head;
	uint8_t b[JF_SECTOR] = {0};

	if (f == NULL || f->now_n < JF_SECTOR || jf_manifest_decode(f->now, &head) != 0)
		return;
	at.salt = jf_salt(head.id, ".manifest");
	switch (e[0] & 7) {
	case 0:
		sim_change(sim, ".manifest", "", 0);
		break;
	case 1:
		f->now_n = f->safe_n = load_le16(e + 2) % (f->now_n + 1);
		break;
	case 2:
		sim_flip(sim, ".manifest", load_le16(e + 2) % f->now_n, e[4] | 1);
		break;
	case 3:
		head.generation = e[1];
		head.entries = e[5];
		head.id[0] ^= e[6] == 255;
		jf_manifest_encode(b, &head);
		put(f, 0, b, JF_SECTOR);
		break;
	default:
		b[JF_RECORD_HEADER] = e[4];
		memcpy(b + JF_RECORD_HEADER + 4, name, strlen(name));
		jf_record_encode(b, &rec, &at);
		put(f, at.offset, b, jf_record_size(rec.len));
	}
}

static void edit(struct sim *sim, uint32_t salt, const uint8_t *e)
{
	uint64_t segment = 1 + e[1] / 64;
	struct jf_segment seg = {.number = segment, .bytes = JOURNAL_SEGMENT_MIN, .epoch = e[7] & 7};
	struct jf_note note = {.number = segment, .seq = e[5], .epoch = e[7] & 7, .flags = e[6] & 1};
	uint8_t b[JF_HEADER];
	char path[SIM_PATH];
	struct sim_file *f;

	if (e[0] >= 0xf0) {
		edit_manifest(sim, e);
		return;
	}
	snprintf(path, sizeof path, "x/%016llx", (unsigned long long)segment);
	f = sim_content(sim, path);
	if (f == NULL) {
		if (e[0] % 8 != 5 || sim->nfiles == SIM_FILES)
			return;
		sim_change(sim, "", path, sim->nfiles++);
		f = sim_content(sim, path);
		jf_segment_encode(b, &seg, salt);
		put(f, 0, b, sizeof b);
		put(f, JOURNAL_SEGMENT_MIN - 1, (const uint8_t *)"", 1);
		return;
	}
	switch (e[0] % 8) {
	case 4:
		jf_note_encode(b, &note, salt);
		put(f, JF_NOTE_AT, b, JF_SECTOR);
		break;
	case 5:
		sim_change(sim, path, "", 0);
		break;
	case 6:
		f->now_n = f->safe_n = load_le16(e + 2) % (f->now_n + 1);
		break;
	case 7:
		if (f->now_n > 0)
			sim_flip(sim, path, load_le16(e + 2) % f->now_n, e[4] | 1);
		break;
	default:
		put_record(f, segment, salt, e);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct sim sim;
	struct history first, second, third;
	struct doorbell bell;
	uint32_t salt;
	int err;

	if (size > 8 * 64)
		return 0;
	CHECK(doorbell_init(&bell) == 0);
	sim_init(&sim);
	CHECK(live(&sim, &bell, true, &first, &salt) == 0);
	sim_crash(&sim, SIM_KEEP_NONE, 0);
	for (; size >= 8; data += 8, size -= 8)
		edit(&sim, salt, data);
	sim_crash(&sim, SIM_KEEP_ALL, 0);
	asks = size; /* what is left of the input */
	err = live(&sim, &bell, false, &first, &salt);
	asks = 0;
	sim_crash(&sim, SIM_KEEP_NONE, 0);
	CHECK(live(&sim, &bell, true, &second, &salt) == err);
	CHECK(second.n == first.n && second.sum == first.sum);
	CHECK(second.opened == first.opened + (err == 0 ? size : 0));
	if (err == 0 && !second.has_new) {
		sim_crash(&sim, SIM_KEEP_NONE, 0);
		CHECK(live(&sim, &bell, false, &third, &salt) == 0);
		CHECK(third.n == second.n + 4 && third.has_new);
	}
	sim_done(&sim);
	doorbell_done(&bell);
	return 0;
}
