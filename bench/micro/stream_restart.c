/* How long a stream of many frames takes to open, what its index takes in memory, and how soon and how fast history comes.
 *
 *   stream_restart [--frames N] [--payload BYTES] [--late PERCENT] [--durability fsync|write] [--dir DIR]
 *
 * Publishes N frames through one shard's view, `late` percent of them out of order, closes, opens again, and reads from the middle and from the
 * beginning: from disk, as after a restart. DIR is made, and removed at the end. No sockets: this is what storage alone can do.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/stream.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNDER_WAY 20000u

struct bench {
	const char *dir;
	uint64_t frames, acked;
	uint32_t payload, late;
	enum stream_durability durability;
	struct journal *journal;
	struct streams *ss;
	struct streams_view *view;
	struct doorbell bell;
	bool ready;
};

static void on_published(void *ctx, void *user, const struct stream_answer *a)
{
	(void)user;
	(void)a;
	((struct bench *)ctx)->acked++;
}

static void on_refused(void *ctx, void *user, enum stream_error why)
{
	char text[256];

	(void)user;
	fprintf(stderr, "refused: %s\n", stream_error_text(((struct bench *)ctx)->ss, why, text, sizeof text));
	exit(1);
}

static void on_ready(void *ctx, void *user)
{
	(void)user;
	((struct bench *)ctx)->ready = true;
}

static const struct streams_view_ops ops = {.published = on_published, .refused = on_refused, .ready = on_ready};

static void must(int err, const char *what, const char *why)
{
	if (err == 0)
		return;
	fprintf(stderr, "%s: %s (%s)\n", what, why, strerror(-err));
	exit(1);
}

static void begin(struct bench *b)
{
	struct journal_opts jo = {.dir = b->dir, .group_max = 1u << 20};
	struct streams_opts so = {
		.shards = 1,
		.durability = b->durability,
		.streams_max = 1,
		.create = true,
		.segment_bytes = 64u << 20,
		.memory_bytes = 64u << 20,
		.payload_max = 1u << 20,
		.publishers_max = 1024,
		.numbers_max = 1024,
		.held_max = 64u << 20,
	};
	const char *why = "";

	must(journal_open(&jo, &b->journal, &why), "journal_open", why);
	must(streams_open(&so, b->journal, &b->ss, &why), "streams_open", why);
	must(journal_start(b->journal), "journal_start", "");
	must(streams_start(b->ss), "streams_start", "");
	must(doorbell_init(&b->bell), "doorbell_init", "");
	b->view = streams_view_new(b->ss, 0, &b->bell);
	CHECK(b->view != NULL);
}

static void finish(struct bench *b)
{
	streams_stop(b->ss);
	must(journal_close(b->journal), "journal_close", "");
	streams_view_free(b->view);
	streams_free(b->ss);
	doorbell_done(&b->bell);
}

static void turn(struct bench *b)
{
	streams_view_turn(b->view, &ops, b);
}

static void wait_turn(struct bench *b)
{
	doorbell_arm(&b->bell);
	if (streams_view_has_work(b->view))
		doorbell_disarm(&b->bell);
	else
		doorbell_wait(&b->bell, NS_PER_S);
	turn(b);
}

static void publish_all(struct bench *b)
{
	uint8_t *payload = calloc(1, b->payload + 1);
	uint64_t x = 88172645463325252u;

	CHECK(payload != NULL);
	for (uint64_t i = 0; i < b->frames;) {
		struct stream_request r = {
			.stream = SPAN_LIT("bench"), .timestamp = 1, .payload = {payload, b->payload}};
		struct stream_publish *p;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		r.seq_no = i + 1;
		if (b->late > 0 && x % 100 < b->late)
			r.seq_no -= (x >> 32) % (i + 1);
		if (i - b->acked >= UNDER_WAY || streams_publish(b->view, &r, NULL, &p) != STREAM_E_OK) {
			wait_turn(b);
			continue;
		}
		if (++i % 256 == 0)
			turn(b);
	}
	while (b->acked < b->frames)
		wait_turn(b);
	free(payload);
}

/* Nanoseconds to the first frames; *ret_rate: frames/s until caught up. */
static uint64_t replay(struct bench *b, uint64_t start, double *ret_rate, uint64_t *ret_frames)
{
	struct stream_start st = {.stream = SPAN_LIT("bench"), .seq_no = start};
	uint64_t began = clock_mono_ns(), first = 0, frames = 0;
	struct stream_cursor *c;
	struct stream_slice s;

	must(-(int)stream_cursor_open(b->view, &st, NULL, &c), "stream_cursor_open", "");
	for (;;) {
		enum cursor_state got = stream_cursor_next(c, 256u << 10, &s);

		if (got == CURSOR_CAUGHT_UP)
			break;
		if (got == CURSOR_COLD) {
			stream_cursor_read(c);
			continue;
		}
		CHECK(got == CURSOR_SLICE || got == CURSOR_WAIT);
		if (got == CURSOR_WAIT) {
			wait_turn(b);
			continue;
		}
		if (first == 0)
			first = clock_mono_ns() - began;
		frames += s.frames;
		stream_slice_put(b->view, &s);
	}
	*ret_rate = (double)frames * 1e9 / (double)(clock_mono_ns() - began);
	*ret_frames = frames;
	stream_cursor_close(c);
	turn(b);
	return first;
}

static void say_replay(struct bench *b, const char *what, uint64_t start)
{
	uint64_t frames, first;
	double rate;

	first = replay(b, start, &rate, &frames);
	printf("%-28s first frames after %.3f ms; %" PRIu64 " frames at %.2f M/s\n", what, (double)first / 1e6, frames,
	       rate / 1e6);
}

static void measure(struct bench *b)
{
	struct stream_stats st;
	uint64_t began = clock_mono_ns();

	begin(b);
	publish_all(b);
	printf("%-28s %.2f M/s\n", "published", (double)b->frames * 1e3 / (double)(clock_mono_ns() - began));
	finish(b);
	began = clock_mono_ns();
	begin(b);
	printf("%-28s %.2f s\n", "opened again", (double)(clock_mono_ns() - began) / 1e9);
	streams_info(b->ss, 0, &st);
	CHECK(st.frames == b->frames);
	printf("%-28s %" PRIu64 " frames, %" PRIu64 " late; disk %.1f MB, index %.2f MB, frames in memory %.2f MB\n",
	       "stream", st.frames, st.late, (double)st.bytes / 1e6, (double)st.index_bytes / 1e6,
	       (double)st.memory_bytes / 1e6);
	say_replay(b, "from the middle, on disk", b->frames / 2);
	say_replay(b, "from the middle, once more", b->frames / 2);
	say_replay(b, "from the beginning", 0);
	finish(b);
}

static void options(struct bench *b, int argc, char **argv)
{
	static const struct option longs[] = {
		{"frames", required_argument, NULL, 'f'}, {"payload", required_argument, NULL, 'p'},
		{"late", required_argument, NULL, 'l'},   {"durability", required_argument, NULL, 'd'},
		{"dir", required_argument, NULL, 'D'},    {NULL, 0, NULL, 0}};
	int o;

	while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (o) {
		case 'f':
			b->frames = strtoull(optarg, NULL, 10);
			break;
		case 'p':
			b->payload = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'l':
			b->late = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'd':
			b->durability = strcmp(optarg, "fsync") == 0 ? STREAM_FSYNC : STREAM_WRITE;
			break;
		case 'D':
			b->dir = optarg;
			break;
		default:
			fprintf(stderr,
				"usage: %s [--frames N] [--payload BYTES] [--late PERCENT] [--durability fsync|write] [--dir DIR]\n",
				argv[0]);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct bench b = {.dir = "stream_restart.tmp", .frames = 10000000, .payload = 64, .durability = STREAM_FSYNC};
	char command[4200];

	options(&b, argc, argv);
	if (access(b.dir, F_OK) == 0) {
		fprintf(stderr, "%s exists; choose another --dir\n", b.dir);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	measure(&b);
	snprintf(command, sizeof command, "rm -rf '%s'", b.dir);
	return system(command) == 0 ? 0 : 1;
}
