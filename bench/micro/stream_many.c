/* What many streams cost: time and memory a stream, to make them, to publish to each in turn, to stop, to open them again, and to read each.
 *
 *   stream_many [--streams N] [--rounds R] [--durability fsync|write] [--dir DIR]
 *
 * Each round publishes one frame of 64 bytes to every stream, 512 under way at a time. DIR is made, and removed at the end. The limit of open files is
 * the caller's (`prlimit --nofile=1024`); a quarter of it is the journal's. No sockets: this is what storage alone takes.
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "queue/stream.h"

#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define UNDER_WAY 512u

struct bench {
	const char *dir;
	uint32_t streams, rounds;
	uint64_t acked;
	enum stream_durability durability;
	struct journal *journal;
	struct streams *ss;
	struct streams_view *view;
	struct doorbell bell;
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
	(void)ctx;
	(void)user;
}

static const struct streams_view_ops ops = {.published = on_published, .refused = on_refused, .ready = on_ready};

static void must(int err, const char *what, const char *why)
{
	if (err == 0)
		return;
	fprintf(stderr, "%s: %s (%s)\n", what, why, strerror(-err));
	exit(1);
}

/* Bytes of memory that the process has touched. */
static double resident(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	CHECK(f != NULL && fscanf(f, "%*u %lu", &pages) == 1);
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void begin(struct bench *b)
{
	struct journal_opts jo = {.dir = b->dir, .group_max = 1u << 20};
	struct streams_opts so = {
		.shards = 1,
		.durability = b->durability,
		.streams_max = b->streams,
		.create = true,
		.segment_bytes = 64u << 20,
		.memory_bytes = 32u << 20,
		.payload_max = 4u << 20,
		.publishers_max = 1024,
		.numbers_max = 1024,
		.held_max = 64u << 20,
	};
	const char *why = "";
	struct rlimit files;

	CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
	jo.files_max = (uint32_t)(files.rlim_cur / 4);
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

static void publish_round(struct bench *b)
{
	static const uint8_t payload[64];
	uint64_t until = b->acked + b->streams, sent = b->acked;
	char name[32];

	for (uint32_t i = 0; i < b->streams;) {
		int n = snprintf(name, sizeof name, "stream-%06" PRIu32, i);
		struct stream_request r = {.stream = {(const uint8_t *)name, (size_t)n},
					   .seq_no = 1,
					   .payload = {payload, sizeof payload}};
		struct stream_publish *p;

		if (sent - b->acked >= UNDER_WAY || streams_publish(b->view, &r, NULL, &p) != STREAM_E_OK) {
			wait_turn(b);
			continue;
		}
		i++;
		if (++sent % 64 == 0)
			turn(b);
	}
	while (b->acked < until)
		wait_turn(b);
}

static void read_one(struct bench *b, uint32_t i)
{
	char name[32];
	int n = snprintf(name, sizeof name, "stream-%06" PRIu32, i);
	struct stream_start st = {.stream = {(const uint8_t *)name, (size_t)n}};
	struct stream_cursor *c;
	struct stream_slice s;
	uint32_t frames = 0;

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
		frames += s.frames;
		stream_slice_put(b->view, &s);
	}
	CHECK(frames == b->rounds);
	stream_cursor_close(c);
	turn(b);
}

static void say(const struct bench *b, const char *what, uint64_t began, double memory)
{
	printf("%-24s %8.1f us a stream  %8.0f bytes a stream\n", what,
	       (double)(clock_mono_ns() - began) / 1e3 / b->streams, (resident() - memory) / b->streams);
}

static void measure(struct bench *b)
{
	double memory = resident();
	uint64_t began = clock_mono_ns();

	begin(b);
	publish_round(b);
	say(b, "made, first frame", began, memory);
	for (uint32_t r = 1; r < b->rounds; r++) {
		began = clock_mono_ns();
		publish_round(b);
		say(b, "another frame each", began, memory);
	}
	began = clock_mono_ns();
	finish(b);
	say(b, "stopped", began, memory);
	malloc_trim(0);
	memory = resident();
	began = clock_mono_ns();
	begin(b);
	say(b, "opened again", began, memory);
	began = clock_mono_ns();
	for (uint32_t i = 0; i < b->streams; i++)
		read_one(b, i);
	say(b, "read", began, memory);
	began = clock_mono_ns();
	finish(b);
	say(b, "stopped", began, memory);
}

static void options(struct bench *b, int argc, char **argv)
{
	static const struct option longs[] = {{"streams", required_argument, NULL, 's'},
					      {"rounds", required_argument, NULL, 'r'},
					      {"durability", required_argument, NULL, 'd'},
					      {"dir", required_argument, NULL, 'D'},
					      {NULL, 0, NULL, 0}};
	int o;

	while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (o) {
		case 's':
			b->streams = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			b->rounds = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'd':
			b->durability = strcmp(optarg, "fsync") == 0 ? STREAM_FSYNC : STREAM_WRITE;
			break;
		case 'D':
			b->dir = optarg;
			break;
		default:
			fprintf(stderr, "usage: %s [--streams N] [--rounds R] [--durability fsync|write] [--dir DIR]\n",
				argv[0]);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct bench b = {.dir = "stream_many.tmp", .streams = 1000, .rounds = 3, .durability = STREAM_FSYNC};
	char command[4200];

	options(&b, argc, argv);
	if (access(b.dir, F_OK) == 0) {
		fprintf(stderr, "%s exists; choose another --dir\n", b.dir);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	log_set_level(LOG_LEVEL_WARN);
	measure(&b);
	snprintf(command, sizeof command, "rm -rf '%s'", b.dir);
	return system(command) == 0 ? 0 : 1;
}
