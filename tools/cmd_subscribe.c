/* `ordinal subscribe`: a stream's frames on standard output, over as many connections as it takes.
 *
 * resume.c says what to ask for and which frames are new; dial.c makes the connections; this file checks each frame (its CRC, its place) and prints. A
 * damaged frame is never printed: it ends the program. So does a standard output that nobody reads any more. Standard output that blocks stops reading, and what the server does then is the
 * matter of --slow. Main thread. */
#include "tools/credentials.h"
#include "tools/dial.h"
#include "tools/feed_codec.h"
#include "tools/resume.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX (64u << 20)
#define WAIT_FIRST_NS (50 * NS_PER_MS) /* before a stream that is not there is asked for again; doubles up to */
#define WAIT_MAX_NS NS_PER_S

struct subscribe {
	struct span stream;
	uint64_t since, count;
	uint32_t reorder_ms;
	enum feed_slow slow;
	bool until_caught_up, json, wait, prefixed, delimited; /* delimited: --delimiter was given */
	int delimiter;                                         /* after each payload; -1: none */
	struct dial_opts dial_opts;

	struct dial dial;
	struct resume resume;
	uint64_t printed;
	bool calling;
	uint64_t missing_pause_ns; /* the last pause because the stream was not there; 0: none yet */
	uint64_t next_call_ns;     /* not before this */
	bool ended;                /* the call at hand: nothing more of it counts */
	/* frames that were printed are not in the stream any more; to be said when it is known what
	 * it is now */
	bool reset;
	uint64_t was; /* with reset: the incarnation that they were of; 0: not known */
	uint32_t call;
	int exit_code; /* -1: go on */
};

static const char usage[] =
	"usage: ordinal subscribe --stream S [OPTION]...\n\n"
	"Prints the payloads of a stream's frames, one a line: history in the order of (seq_no, timestamp, offset), then what comes, as it comes. A lost\n"
	"connection is made again, and goes on where it was: nothing twice, nothing missed. Marks go to standard error (with --json, among the\n"
	"frames). Each frame's CRC and place is checked; damage ends it. A stream that does not have the frames any more that were printed, because it\n"
	"is kept in memory and the server was started again, or was lost, is in another incarnation: a warning says so, and it is printed from its\n"
	"beginning.\n\n"
	"  --stream S             which\n"
	"  --since SEQ            only frames whose seq_no is this or above (default 0)\n"
	"  --until-caught-up      end when history has been printed\n"
	"  --wait                 a stream that is not there is waited for, until it is (where the server makes none for a reader: NOT_FOUND)\n"
	"  --count N              end after N frames\n"
	"  --delimiter BYTE|none  what follows each payload (default \\n; also \\t, \\0, \\x1e, ...); none: nothing\n"
	"  --length-prefixed      each payload has its length before it: 4 bytes, big-endian. `ordinal publish --length-prefixed` reads that\n"
	"  --slow wait|drop|disconnect   what the server does when this reader is slow: keep its place; leave out the oldest frames, with a\n"
	"                         GAP; end the subscription (default wait)\n"
	"  --reorder DURATION     frames that come live are held for so long, up to 1 minute, to be put in the order of (seq_no, timestamp)\n"
	"  --server HOST:PORT     where ordinald listens (default: $ORDINAL_SERVER, else " TOOL_SERVER_DEFAULT ")\n"
	"  --protocol native|grpc what to speak (default grpc: frames travel as they are stored)\n"
	"  --patience DURATION    how long a lost connection may stay away (default 60s)\n" CREDENTIALS_HELP
	"  --json                 one object a line: offset, seq_no, timestamp, and payload (UTF-8) or payload_base64; or mark\n\n" TOOL_EXIT_CODES;

enum {
	OPT_STREAM = 256,
	OPT_SINCE,
	OPT_UNTIL_CAUGHT_UP,
	OPT_WAIT,
	OPT_COUNT,
	OPT_DELIMITER,
	OPT_LENGTH_PREFIXED,
	OPT_SLOW,
	OPT_REORDER,
	OPT_SERVER,
	OPT_PROTOCOL,
	OPT_PATIENCE,
	OPT_JSON,
	OPT_HELP
};
static const struct option options[] = {
	{"stream", required_argument, NULL, OPT_STREAM},
	{"since", required_argument, NULL, OPT_SINCE},
	{"until-caught-up", no_argument, NULL, OPT_UNTIL_CAUGHT_UP},
	{"wait", no_argument, NULL, OPT_WAIT},
	{"count", required_argument, NULL, OPT_COUNT},
	{"delimiter", required_argument, NULL, OPT_DELIMITER},
	{"length-prefixed", no_argument, NULL, OPT_LENGTH_PREFIXED},
	{"slow", required_argument, NULL, OPT_SLOW},
	{"reorder", required_argument, NULL, OPT_REORDER},
	{"server", required_argument, NULL, OPT_SERVER},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"patience", required_argument, NULL, OPT_PATIENCE},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	CREDENTIALS_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int reorder_option(struct subscribe *s)
{
	uint64_t ns;
	int r = tool_duration("--reorder", optarg, &ns);
	if (r == 0 && ns > 60 * NS_PER_S) {
		fprintf(stderr, "ordinal: --reorder is at most 1 minute\n");
		r = -EINVAL;
	}
	if (r == 0)
		s->reorder_ms = (uint32_t)((ns + NS_PER_MS - 1) / NS_PER_MS);
	return r;
}

static int take_option(struct subscribe *s, int opt)
{
	switch (opt) {
	case OPT_STREAM:
		return tool_name("--stream", optarg, &s->stream);
	case OPT_SINCE:
		return tool_u64("--since", optarg, 0, UINT64_MAX, &s->since);
	case OPT_UNTIL_CAUGHT_UP:
		s->until_caught_up = true;
		return 0;
	case OPT_WAIT:
		s->wait = true;
		return 0;
	case OPT_COUNT:
		return tool_u64("--count", optarg, 1, UINT64_MAX, &s->count);
	case OPT_DELIMITER:
		s->delimited = true;
		return tool_delimiter("--delimiter", optarg, &s->delimiter);
	case OPT_LENGTH_PREFIXED:
		s->prefixed = true;
		return 0;
	case OPT_SLOW:
		return tool_slow("--slow", optarg, &s->slow);
	case OPT_REORDER:
		return reorder_option(s);
	case OPT_SERVER:
		s->dial_opts.server = optarg;
		return 0;
	case OPT_PROTOCOL:
		return tool_protocol("--protocol", optarg, &s->dial_opts.protocol);
	case OPT_PATIENCE:
		return tool_duration("--patience", optarg, &s->dial_opts.patience_ns);
	case OPT_JSON:
		s->json = true;
		return 0;
	default:
		return credentials_option(opt);
	}
}

static void end(struct subscribe *s, int code)
{
	if (s->exit_code < 0)
		s->exit_code = code;
}

static void print_payload(const struct subscribe *s, struct span payload)
{
	if (s->prefixed) { /* no message is longer than MESSAGE_MAX */
		uint32_t n = (uint32_t)payload.n;
		uint8_t length[] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
		fwrite(length, 1, sizeof length, stdout);
	}
	if (payload.n)
		fwrite(payload.p, 1, payload.n, stdout);
	if (!s->prefixed && s->delimiter != -1)
		putchar(s->delimiter);
}

static void print_frame(struct subscribe *s, const struct feed_frame *f)
{
	if (s->json) {
		printf("{\"offset\":%" PRIu64 ",\"seq_no\":%" PRIu64 ",\"timestamp\":%" PRId64 ",", f->offset,
		       f->seq_no, f->timestamp);
		if (f->publisher.n) {
			printf("\"publisher\":");
			tool_json_string(stdout, f->publisher);
			printf(",\"publisher_seq\":%" PRIu64 ",", f->publisher_seq);
		}
		tool_json_payload(stdout, f->payload);
		printf("}\n");
	} else {
		print_payload(s, f->payload);
	}
	s->printed++;
	if (ferror(stdout))
		end(s, TOOL_FAILED);
	else if (s->count && s->printed == s->count)
		end(s, TOOL_OK);
}

static void print_mark(const struct subscribe *s, const struct feed_frame *f)
{
	const char *name = feed_mark_name(f->mark);
	if (s->json && f->mark == FEED_MARK_GAP)
		printf("{\"mark\":\"%s\",\"gap_from\":%" PRIu64 ",\"gap_to\":%" PRIu64 "}\n", name, f->gap_from,
		       f->gap_to);
	else if (s->json)
		printf("{\"mark\":\"%s\",\"offset\":%" PRIu64 "}\n", name, f->offset);
	else if (f->mark == FEED_MARK_GAP)
		fprintf(stderr, "ordinal: GAP: offsets %" PRIu64 " to %" PRIu64 " are gone\n", f->gap_from, f->gap_to);
	else
		fprintf(stderr, "ordinal: %s\n", name);
}

/* The rest of this call is not wanted: its end (on_done) is followed by another. */
static void leave_call(struct subscribe *s)
{
	s->ended = true;
	if (dial_channel(&s->dial))
		channel_call_cancel(s->dial.channel, s->call);
}

/* What was printed is of a stream that is not there any more; what comes is from the beginning of
 * the one that is. */
static void print_reset(struct subscribe *s, uint64_t now)
{
	bool same = s->was == now || s->was == 0 || now == 0;
	s->reset = false;
	if (s->json) /* the numbers as text: they need all of 64 bits */
		printf("{\"mark\":\"NEW_INCARNATION\",\"incarnation\":\"%" PRIu64 "\",\"was\":\"%" PRIu64 "\"}\n", now,
		       s->was);
	if (same)
		fprintf(stderr,
			"ordinal: the stream does not have the frames any more that were printed; what follows is from its beginning\n");
	else
		fprintf(stderr,
			"ordinal: the stream is in incarnation %" PRIu64 ", and was in %" PRIu64
			": the frames that were printed are gone from it; what follows is from its beginning\n",
			now, s->was);
}

static void on_mark(struct subscribe *s, struct feed_frame *f)
{
	resume_told(&s->resume, f->incarnation);
	if (s->reset)
		print_reset(s, f->incarnation);
	switch (f->mark) {
	case FEED_MARK_RESUMED:
		return;
	case FEED_MARK_CAUGHT_UP:
		if (!resume_caught_up(&s->resume)) {
			leave_call(s);
			return;
		}
		print_mark(s, f);
		if (s->until_caught_up)
			end(s, TOOL_OK);
		return;
	case FEED_MARK_GAP:
		if (resume_gap(&s->resume, &f->gap_from, f->gap_to))
			print_mark(s, f);
		return;
	case FEED_MARK_GOING_AWAY:
		resume_going_away(&s->resume, f->offset);
		print_mark(s, f);
		return;
	default:
		fprintf(stderr, "ordinal: a mark of a later version, %" PRIu32 ", was passed over\n", f->mark);
	}
}

static void on_frame(struct subscribe *s, const struct feed_frame *f)
{
	int r = resume_frame(&s->resume, f->seq_no, f->timestamp, f->offset);
	switch (r) {
	case RESUME_NEW:
		print_frame(s, f);
		return;
	case RESUME_SEEN:
		return;
	case RESUME_REPEATED:
	case RESUME_DISORDERED:
		fprintf(stderr, "ordinal: the server sent offset %" PRIu64 " %s\n", f->offset,
			r == RESUME_REPEATED ? "twice" : "out of order");
		break;
	default:
		fprintf(stderr, "ordinal: %s\n", strerror(-r));
	}
	end(s, TOOL_FAILED);
}

static void on_message(void *ctx, struct span msg)
{
	struct subscribe *s = ctx;
	struct feed_frame f;
	if (s->exit_code >= 0 || s->ended)
		return;
	if (feed_frame_get(msg, &f)) {
		fprintf(stderr, "ordinal: the server sent something that is no Frame\n");
		end(s, TOOL_FAILED);
		return;
	}
	if (feed_frame_crc(msg) == FEED_CRC_WRONG) {
		fprintf(stderr,
			"ordinal: the frame at offset %" PRIu64 " is damaged: its CRC does not match its bytes\n",
			f.offset);
		end(s, TOOL_FAILED);
		return;
	}
	dial_well(&s->dial);
	if (f.mark != FEED_MARK_NONE)
		on_mark(s, &f);
	else
		on_frame(s, &f);
}

/* The stream is not there, and the server makes none for this caller. */
static void on_missing(struct subscribe *s, const struct channel_status *st)
{
	if (!s->wait || s->missing_pause_ns == 0)
		tool_print_status(st);
	if (!s->wait) {
		fprintf(stderr, "With --wait it is waited for, until somebody has published to it.\n");
		end(s, TOOL_FAILED);
		return;
	}
	if (s->missing_pause_ns == 0)
		fprintf(stderr, "ordinal: waiting for it\n");
	s->missing_pause_ns = s->missing_pause_ns ? s->missing_pause_ns * 2 : WAIT_FIRST_NS;
	if (s->missing_pause_ns > WAIT_MAX_NS)
		s->missing_pause_ns = WAIT_MAX_NS;
	s->next_call_ns = clock_mono_ns() + s->missing_pause_ns;
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct subscribe *s = ctx;
	bool left = s->ended;
	s->calling = false;
	int r = resume_break(&s->resume);
	if (r && s->exit_code < 0) {
		fprintf(stderr, "ordinal: %s\n", strerror(-r));
		end(s, TOOL_FAILED);
	}
	if (s->exit_code >= 0 || left)
		return;
	if (st->code == GRPC_OK || st->code == GRPC_UNAVAILABLE) {
		dial_pause(&s->dial, "the server has ended the subscription");
		return;
	}
	if (st->code == GRPC_OUT_OF_RANGE && resume_goes_on(&s->resume)) {
		s->reset = s->printed > 0;
		s->was = s->resume.incarnation;
		resume_restart(&s->resume); /* the next call begins */
		return;
	}
	if (st->code == GRPC_NOT_FOUND) {
		on_missing(s, st);
		return;
	}
	tool_print_status(st);
	end(s, TOOL_FAILED);
}

static const struct channel_call_ops call_ops = {.message = on_message, .done = on_done};

static void begin(struct subscribe *s, struct channel *ch)
{
	uint8_t request[TOOL_NAME_MAX + FEED_SUBSCRIBE_OVERHEAD];
	struct feed_subscribe m = {.stream = s->stream, .slow = s->slow, .reorder_ms = s->reorder_ms};
	resume_begin(&s->resume, &m.since, &m.resume_offset);
	m.incarnation = s->resume.incarnation;
	m.mark_begin = true;
	s->ended = false;
	int r = channel_call(ch, METHOD_FEED_SUBSCRIBE, (struct span){request, feed_subscribe_put(request, &m)}, 0, 0,
			     &call_ops, s, &s->call);
	s->calling = r == 0;
	if (r && r != -EAGAIN && r != -ESHUTDOWN) {
		fprintf(stderr, "ordinal: cannot subscribe: %s\n", strerror(-r));
		end(s, TOOL_FAILED);
	}
}

static int run(struct subscribe *s)
{
	while (s->exit_code < 0) {
		struct channel *ch = dial_channel(&s->dial);
		uint64_t now = clock_mono_ns(), pause = now < s->next_call_ns ? s->next_call_ns - now : 0;
		if (ch && !s->calling && !pause)
			begin(s, ch);
		if (tool_reader_gone())
			return tool_unread();
		if (dial_turn(&s->dial, pause && pause < TOOL_READER_LOOK_NS ? pause : TOOL_READER_LOOK_NS))
			return tool_unreachable(s->dial_opts.server, s->dial.why);
		if (fflush(stdout))
			return TOOL_FAILED;
	}
	return s->exit_code;
}

int cmd_subscribe(int argc, char **argv)
{
	static struct subscribe s;
	int opt;
	s = (struct subscribe){.exit_code = -1, .delimiter = '\n'};
	s.dial_opts = (struct dial_opts){.server = tool_server(),
					 .protocol = CHANNEL_GRPC,
					 .patience_ns = 60 * NS_PER_S,
					 .message_max = MESSAGE_MAX,
					 .ctx = &s};
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return TOOL_OK;
		}
		if (take_option(&s, opt))
			return tool_usage("subscribe");
	}
	if (!s.stream.p) {
		fprintf(stderr, "ordinal: subscribe needs --stream\n");
		return tool_usage("subscribe");
	}
	if (s.prefixed + s.delimited + s.json > 1) {
		fprintf(stderr, "ordinal: subscribe takes one of --length-prefixed, --delimiter and --json\n");
		return tool_usage("subscribe");
	}
	if (tool_no_arguments("subscribe", argc, argv))
		return TOOL_USAGE;
	if (tool_check_server(s.dial_opts.server) || credentials_load(s.dial_opts.server))
		return tool_usage("subscribe");
	resume_init(&s.resume, s.since);
	s.resume.late = s.reorder_ms > 0; /* frames will come late, even if none has yet */
	int r = dial_init(&s.dial, &s.dial_opts) ? tool_unreachable(s.dial_opts.server, s.dial.why) : run(&s);
	s.exit_code = r; /* what ends now ends unseen */
	dial_done(&s.dial);
	resume_done(&s.resume);
	return r;
}
