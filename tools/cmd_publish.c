/* `ordinal publish`: payloads from the arguments, from files, or from standard input, over one PublishMany.
 *
 * Frames wait in a queue, in order, from being read until they are answered: the first `sent` of them are under way. Answers come in order, so
 * each is for the first of the queue. When a connection is lost or drains, what is unanswered is sent again on the next one, if that
 * is harmless: with --publisher, each frame has a number, and a number that was there before gets its first answer. Without, frames that were under
 * way are in doubt, and that is the end. Main thread. */
#include "tools/credentials.h"
#include "tools/dial.h"
#include "tools/feed_codec.h"
#include "tools/lines.h"
#include "tools/tool.h"

#include "core/base/clock.h"
#include "rpc/methods.h"
#include "rpc/wire/grpc.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_MAX 512u              /* frames; less than the numbers that a server remembers of a publisher */
#define QUEUE_BYTES_MAX (16u << 20) /* more than that is not read ahead */
#define PAYLOAD_MAX (64u << 20)     /* the server's limit is lower, and it says so better */
#define INPUT_NAP_MIN_NS NS_PER_MS  /* how often quiet input is looked at */
#define INPUT_NAP_MAX_NS (20 * NS_PER_MS)

struct item {
	uint64_t number; /* of payloads, from 0 */
	uint8_t *p;
	size_t n;
};

struct publish {
	struct feed_publish base; /* stream, publisher, timestamp */
	uint64_t seq_first, publisher_seq_first;
	bool seq_same, json, quiet;
	struct dial_opts dial_opts;
	char **args; /* payloads, or with `files` the names of files that each are one; NULL: standard input */
	int args_n;
	bool files, prefixed, delimited; /* delimited: --delimiter was given */
	int delimiter;                   /* of standard input; -1: none, all of it is one payload */
	int file_fd;                     /* with `files`: the one that `lines` reads; -1: none yet */
	int files_opened;

	struct dial dial;
	struct lines lines;
	uint64_t read, answered;
	/* of the stream, in the last answer; 0: none yet, or the server does not tell */
	uint64_t incarnation;
	bool input_ended, input_failed; /* what was read before the failure is published all the same */
	uint64_t nap_ns;
	struct item queue[QUEUE_MAX]; /* a ring */
	uint32_t head, queued, sent;  /* sent: of the queued, on the call at hand */
	size_t queued_bytes;
	uint8_t *message;
	size_t message_cap;
	bool calling, ended;
	uint32_t call;
	int exit_code; /* -1: go on */
};

static const char usage[] =
	"usage: ordinal publish --stream S [OPTION]... [PAYLOAD]...\n\n"
	"Sends frames to a stream and prints, for each, its offset and how durable it is once the server has said so. Without PAYLOAD\n"
	"and --file, each line of standard input is one, as it comes.\n\n"
	"  --stream S             where to\n"
	"  --file PATH            the bytes of this file as one frame; may be given again, for one frame each\n"
	"  --delimiter BYTE|none  what ends each frame on standard input (default \\n; also \\t, \\0, \\x1e, ...); none: all of it is one\n"
	"  --length-prefixed      each frame on standard input has its length before it: 4 bytes, big-endian\n"
	"  --seq N                the seq_no of every frame\n"
	"  --seq-start N          the seq_no of the first; each next is one higher (the default, with 1)\n"
	"  --timestamp NS         of every frame, in Unix nanoseconds (default: the server's clock)\n"
	"  --publisher ID         makes it safe to send again after a lost connection, and then does so. Frames are numbered, and a number\n"
	"                         that this ID has used before in this stream adds nothing: running the same command again is harmless\n"
	"                         for up to 1024 frames; older ones are refused. A stream remembers the 1024 IDs used last\n"
	"  --publisher-seq N      the number of the first frame (default 1)\n"
	"  --server HOST:PORT     where ordinald listens (default: $ORDINAL_SERVER, else " TOOL_SERVER_DEFAULT ")\n"
	"  --protocol native|grpc what to speak (default native)\n"
	"  --patience DURATION    how long a lost connection may stay away (default 30s)\n" CREDENTIALS_HELP
	"  --quiet                print nothing\n"
	"  --json                 one object a frame: seq_no, offset, timestamp, durability, duplicate\n\n" TOOL_EXIT_CODES;

enum {
	OPT_STREAM = 256,
	OPT_FILE,
	OPT_DELIMITER,
	OPT_LENGTH_PREFIXED,
	OPT_SEQ,
	OPT_SEQ_START,
	OPT_TIMESTAMP,
	OPT_PUBLISHER,
	OPT_PUBLISHER_SEQ,
	OPT_SERVER,
	OPT_PROTOCOL,
	OPT_PATIENCE,
	OPT_QUIET,
	OPT_JSON,
	OPT_HELP
};
static const struct option options[] = {
	{"stream", required_argument, NULL, OPT_STREAM},
	{"file", required_argument, NULL, OPT_FILE},
	{"delimiter", required_argument, NULL, OPT_DELIMITER},
	{"length-prefixed", no_argument, NULL, OPT_LENGTH_PREFIXED},
	{"seq", required_argument, NULL, OPT_SEQ},
	{"seq-start", required_argument, NULL, OPT_SEQ_START},
	{"timestamp", required_argument, NULL, OPT_TIMESTAMP},
	{"publisher", required_argument, NULL, OPT_PUBLISHER},
	{"publisher-seq", required_argument, NULL, OPT_PUBLISHER_SEQ},
	{"server", required_argument, NULL, OPT_SERVER},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"patience", required_argument, NULL, OPT_PATIENCE},
	{"quiet", no_argument, NULL, OPT_QUIET},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	CREDENTIALS_OPTIONS,
	{NULL, 0, NULL, 0},
};

/* A file that cannot be read is told of before anything is sent. */
static int file_option(struct publish *p)
{
	struct stat st = {0};
	int err = access(optarg, R_OK) || stat(optarg, &st) ? errno : S_ISDIR(st.st_mode) ? EISDIR : 0;
	if (err) {
		fprintf(stderr, "ordinal: --file %s: %s\n", optarg, strerror(err));
		return -err;
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > PAYLOAD_MAX) {
		fprintf(stderr, "ordinal: --file %s has %jd bytes, and a payload has at most %u\n", optarg,
			(intmax_t)st.st_size, PAYLOAD_MAX);
		return -EMSGSIZE;
	}
	char **grown = realloc(p->args, ((size_t)p->args_n + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	p->args = grown;
	p->args[p->args_n++] = optarg;
	p->files = true;
	return 0;
}

static int take_option(struct publish *p, int opt)
{
	uint64_t v;
	int r;
	switch (opt) {
	case OPT_STREAM:
		return tool_name("--stream", optarg, &p->base.stream);
	case OPT_FILE:
		return file_option(p);
	case OPT_DELIMITER:
		p->delimited = true;
		return tool_delimiter("--delimiter", optarg, &p->delimiter);
	case OPT_LENGTH_PREFIXED:
		p->prefixed = true;
		return 0;
	case OPT_SEQ:
		p->seq_same = true;
		return tool_u64("--seq", optarg, 0, UINT64_MAX, &p->seq_first);
	case OPT_SEQ_START:
		p->seq_same = false;
		return tool_u64("--seq-start", optarg, 0, UINT64_MAX, &p->seq_first);
	case OPT_TIMESTAMP:
		r = tool_u64("--timestamp", optarg, 0, INT64_MAX, &v);
		if (r == 0)
			p->base.timestamp = (int64_t)v;
		return r;
	case OPT_PUBLISHER:
		return tool_name("--publisher", optarg, &p->base.publisher);
	case OPT_PUBLISHER_SEQ:
		return tool_u64("--publisher-seq", optarg, 1, UINT64_MAX, &p->publisher_seq_first);
	case OPT_SERVER:
		p->dial_opts.server = optarg;
		return 0;
	case OPT_PROTOCOL:
		return tool_protocol("--protocol", optarg, &p->dial_opts.protocol);
	case OPT_PATIENCE:
		return tool_duration("--patience", optarg, &p->dial_opts.patience_ns);
	case OPT_QUIET:
		p->quiet = true;
		return 0;
	case OPT_JSON:
		p->json = true;
		return 0;
	default:
		return credentials_option(opt);
	}
}

static void fail(struct publish *p, int code)
{
	if (p->exit_code < 0)
		p->exit_code = code;
}

/* ---- input ---- */

static struct item *item_at(struct publish *p, uint32_t i)
{
	return &p->queue[(p->head + i) % QUEUE_MAX];
}

static int queue_payload(struct publish *p, struct span payload)
{
	struct item *it = item_at(p, p->queued);
	it->p = malloc(payload.n + 1);
	if (!it->p)
		return -ENOMEM;
	if (payload.n)
		memcpy(it->p, payload.p, payload.n);
	it->n = payload.n;
	it->number = p->read++;
	p->queued++;
	p->queued_bytes += payload.n;
	return 0;
}

/* The bytes of the next file. */
static int next_file(struct publish *p, struct span *ret)
{
	for (;;) {
		int r = p->file_fd < 0 ? LINES_END : lines_next(&p->lines, ret);
		if (r != LINES_END)
			return r;
		if (p->file_fd >= 0) {
			lines_done(&p->lines);
			close(p->file_fd);
			p->file_fd = -1;
		}
		if (p->files_opened == p->args_n)
			return LINES_END;
		p->file_fd = open(p->args[p->files_opened], O_RDONLY | O_CLOEXEC);
		if (p->file_fd < 0)
			return -errno;
		p->files_opened++;
		lines_init_form(&p->lines, p->file_fd, PAYLOAD_MAX, LINES_WHOLE, 0);
	}
}

/* Why no payload could be read. */
static void print_unread(const struct publish *p, int err)
{
	fprintf(stderr, "ordinal: cannot read payload %" PRIu64 ": ", p->read + 1);
	if (p->files)
		fprintf(stderr, "--file %s: ", p->args[p->read]);
	if (err == EMSGSIZE && p->prefixed)
		fprintf(stderr,
			"--length-prefixed: its length is said to be %" PRIu32 " bytes, and a payload has at most %u\n",
			p->lines.length, PAYLOAD_MAX);
	else if (err == EMSGSIZE)
		fprintf(stderr, "%s is too long: a payload has at most %u bytes\n",
			p->files             ? "the file"
			: p->delimiter == -1 ? "--delimiter none: the input"
					     : "the line",
			PAYLOAD_MAX);
	else if (err == ENODATA && p->lines.n - p->lines.at < LINES_PREFIX)
		fprintf(stderr, "--length-prefixed: the input ends within the 4 bytes of its length\n");
	else if (err == ENODATA)
		fprintf(stderr, "--length-prefixed: the input ends after %zu of its %" PRIu32 " bytes\n",
			p->lines.n - p->lines.at - LINES_PREFIX, p->lines.length);
	else
		fprintf(stderr, "%s\n", strerror(err));
}

/* The next payload: an enum lines_state or -errno. */
static int next_payload(struct publish *p, struct span *ret)
{
	if (p->files)
		return next_file(p, ret);
	if (!p->args)
		return lines_next(&p->lines, ret);
	if (p->read == (uint64_t)p->args_n)
		return LINES_END;
	const char *text = p->args[p->read];
	*ret = (struct span){(const uint8_t *)text, strlen(text)};
	return LINES_LINE;
}

/* Whether the next payload's seq_no and number exist; after a sentence, when not. */
static bool numbers_last(const struct publish *p, uint64_t payload)
{
	if (!p->seq_same && payload > UINT64_MAX - p->seq_first)
		fprintf(stderr,
			"ordinal: --seq-start %" PRIu64 " leaves no seq_no for payload %" PRIu64
			": the last seq_no is %" PRIu64 "\n",
			p->seq_first, payload + 1, UINT64_MAX);
	else if (p->base.publisher.n && payload > UINT64_MAX - p->publisher_seq_first)
		fprintf(stderr,
			"ordinal: --publisher-seq %" PRIu64 " leaves no number for payload %" PRIu64
			": the last number is %" PRIu64 "\n",
			p->publisher_seq_first, payload + 1, UINT64_MAX);
	else
		return true;
	return false;
}

static void input_failed(struct publish *p)
{
	p->input_ended = true;
	p->input_failed = true;
}

/* Reads ahead as far as the queue allows and input is there. */
static void take_input(struct publish *p)
{
	bool quiet = true;
	while (!p->input_ended && p->queued < QUEUE_MAX && p->queued_bytes < QUEUE_BYTES_MAX) {
		struct span payload = {0};
		int r = next_payload(p, &payload);
		if (r == LINES_WAIT)
			break;
		if (r == LINES_LINE) {
			quiet = false;
			if (!numbers_last(p, p->read)) {
				input_failed(p);
				break;
			}
			r = queue_payload(p, payload);
		} else if (r == LINES_END) {
			p->input_ended = true;
			r = 0;
		}
		if (r < 0) {
			print_unread(p, -r);
			input_failed(p);
		}
	}
	if (!quiet || p->nap_ns < INPUT_NAP_MIN_NS)
		p->nap_ns = INPUT_NAP_MIN_NS;
	else if (p->nap_ns < INPUT_NAP_MAX_NS)
		p->nap_ns += p->nap_ns / 16;
}

/* ---- answers ---- */

static void print_answer(const struct publish *p, uint64_t number, const struct feed_publish_reply *r)
{
	const char *durability = feed_durability_name(r->durability);
	if (p->quiet)
		return;
	if (p->json)
		printf("{\"seq_no\":%" PRIu64 ",\"offset\":%" PRIu64 ",\"timestamp\":%" PRId64
		       ",\"durability\":\"%s\",\"duplicate\":%s,\"incarnation\":\"%" PRIu64 "\"}\n",
		       p->seq_first + (p->seq_same ? 0 : number), r->offset, r->timestamp, durability,
		       r->duplicate ? "true" : "false", r->incarnation);
	else
		printf("%" PRIu64 " %s%s\n", r->offset, durability, r->duplicate ? " duplicate" : "");
}

/* Frames that were acknowledged before are not in the stream any more. */
static void note_incarnation(struct publish *p, const struct feed_publish_reply *r)
{
	if (p->incarnation != 0 && r->incarnation != 0 && r->incarnation != p->incarnation)
		fprintf(stderr,
			"ordinal: the stream is in incarnation %" PRIu64 ", and was in %" PRIu64 ": the %" PRIu64
			" frames that were acknowledged before are gone from it\n",
			r->incarnation, p->incarnation, p->answered);
	p->incarnation = r->incarnation;
}

static void on_answer(void *ctx, struct span msg)
{
	struct publish *p = ctx;
	struct feed_publish_reply r;
	if (p->exit_code >= 0)
		return;
	if (p->sent == 0 || feed_publish_reply_get(msg, &r) || r.offset == 0) {
		fprintf(stderr, "ordinal: the server's answer is no PublishReply, or an answer to nothing\n");
		fail(p, TOOL_FAILED);
		return;
	}
	note_incarnation(p, &r);
	struct item *it = item_at(p, 0);
	print_answer(p, it->number, &r);
	p->queued_bytes -= it->n;
	free(it->p);
	p->head = (p->head + 1) % QUEUE_MAX;
	p->queued--;
	p->sent--;
	p->answered++;
	dial_well(&p->dial);
}

static void print_refusal(const struct publish *p, const struct channel_status *st)
{
	tool_print_status(st);
	fprintf(stderr, "%" PRIu64 " frames were acknowledged", p->answered);
	if (p->sent == 0)
		fprintf(stderr, ".\n");
	else if (st->code == GRPC_UNAVAILABLE || st->code == GRPC_CANCELLED || st->code == GRPC_OK)
		fprintf(stderr,
			"; the next %" PRIu32 " were sent, and whether they are kept is not known. With --publisher ID "
			"they could be sent again safely.\n",
			p->sent);
	else
		fprintf(stderr, "; this is about payload %" PRIu64 ".\n", p->answered + 1);
}

static void on_done(void *ctx, const struct channel_status *st)
{
	struct publish *p = ctx;
	bool gone = st->code == GRPC_UNAVAILABLE || st->code == GRPC_OK;
	p->calling = false;
	if (p->exit_code >= 0 || (gone && p->queued == 0 && p->input_ended))
		return;
	if (gone && (p->sent == 0 || st->unprocessed || p->base.publisher.n)) {
		if (p->sent > 0)
			dial_pause(&p->dial, "the server has ended the call");
		p->sent = 0;
		return;
	}
	print_refusal(p, st);
	fail(p, TOOL_FAILED);
}

static const struct channel_call_ops call_ops = {.message = on_answer, .done = on_done};

/* The server answers what it has got, and then the call ends. */
static void on_draining(void *ctx, struct channel *ch)
{
	struct publish *p = ctx;
	if (p->calling && !p->ended)
		channel_call_end(ch, p->call);
	p->ended = true;
}

/* ---- requests ---- */

static int encode(struct publish *p, const struct item *it, struct span *ret)
{
	struct feed_publish m = p->base;
	size_t room = it->n + m.stream.n + m.publisher.n + FEED_PUBLISH_OVERHEAD;
	if (room > p->message_cap) {
		uint8_t *grown = realloc(p->message, room);
		if (!grown)
			return -ENOMEM;
		p->message = grown;
		p->message_cap = room;
	}
	m.payload = (struct span){it->p, it->n};
	m.seq_no = p->seq_first + (p->seq_same ? 0 : it->number);
	m.publisher_seq = m.publisher.n ? p->publisher_seq_first + it->number : 0;
	*ret = (struct span){p->message, feed_publish_put(p->message, &m)};
	return 0;
}

/* Sends what waits, as far as it goes. */
static void send_queued(struct publish *p)
{
	struct channel *ch = dial_channel(&p->dial);
	while (ch && p->sent < p->queued && p->exit_code < 0) {
		struct span msg;
		if (p->calling && p->ended)
			return;
		int r = encode(p, item_at(p, p->sent), &msg);
		if (r == 0 && p->calling) {
			r = channel_call_send(ch, p->call, msg, CHANNEL_MORE);
		} else if (r == 0) {
			p->ended = false;
			r = channel_call(ch, METHOD_FEED_PUBLISH_MANY, msg, 0, CHANNEL_MORE, &call_ops, p, &p->call);
			p->calling = r == 0;
		}
		if (r == -EMSGSIZE || r == -ENOMEM) {
			fprintf(stderr, "ordinal: cannot send payload %" PRIu64 ": %s\n",
				item_at(p, p->sent)->number + 1, strerror(-r));
			fail(p, TOOL_FAILED);
		}
		if (r)
			return; /* after a turn */
		p->sent++;
	}
	if (ch && p->calling && !p->ended && p->input_ended && p->sent == p->queued) {
		channel_call_end(ch, p->call);
		p->ended = true;
	}
}

static int run(struct publish *p)
{
	while (p->exit_code < 0) {
		take_input(p);
		if (p->exit_code >= 0 || (p->input_ended && p->queued == 0))
			break;
		if (p->queued == 0 && !p->quiet && tool_reader_gone())
			return tool_unread();
		send_queued(p);
		bool waits = !p->input_ended && p->queued < QUEUE_MAX && p->queued_bytes < QUEUE_BYTES_MAX;
		int r = dial_turn(&p->dial, waits ? p->nap_ns : NS_PER_S);
		if (r) {
			if (p->dial.ever_open && p->queued)
				fprintf(stderr,
					"ordinal: %" PRIu64 " frames were acknowledged, %" PRIu32 " are unanswered\n",
					p->answered, p->queued);
			return tool_unreachable(p->dial_opts.server, p->dial.why);
		}
		if (fflush(stdout))
			return TOOL_FAILED;
	}
	return p->exit_code >= 0 ? p->exit_code : p->input_failed ? TOOL_FAILED : TOOL_OK;
}

/* Payloads come from one place. */
static int check_sources(const struct publish *p, bool arguments)
{
	if (p->files && arguments)
		fprintf(stderr, "ordinal: publish takes payloads from --file or as arguments, not both\n");
	else if (p->prefixed && p->delimited)
		fprintf(stderr, "ordinal: publish takes --length-prefixed or --delimiter, not both\n");
	else if ((p->files || arguments) && (p->prefixed || p->delimited))
		fprintf(stderr,
			"ordinal: %s is about standard input, which is not read where there are other payloads\n",
			p->prefixed ? "--length-prefixed" : "--delimiter");
	else
		return 0;
	return -EINVAL;
}

int cmd_publish(int argc, char **argv)
{
	static struct publish p;
	int opt;
	p = (struct publish){
		.seq_first = 1, .publisher_seq_first = 1, .exit_code = -1, .delimiter = '\n', .file_fd = -1};
	p.dial_opts = (struct dial_opts){.server = tool_server(),
					 .protocol = CHANNEL_NATIVE,
					 .patience_ns = 30 * NS_PER_S,
					 .draining = on_draining,
					 .ctx = &p};
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return TOOL_OK;
		}
		if (take_option(&p, opt))
			return tool_usage("publish");
	}
	if (!p.base.stream.p) {
		fprintf(stderr, "ordinal: publish needs --stream\n");
		return tool_usage("publish");
	}
	if (check_sources(&p, argc > optind))
		return tool_usage("publish");
	if (optind < argc) {
		p.args = argv + optind;
		p.args_n = argc - optind;
	}
	if (p.args && !numbers_last(&p, (uint64_t)p.args_n - 1))
		return tool_usage("publish");
	if (tool_check_server(p.dial_opts.server) || credentials_load(p.dial_opts.server))
		return tool_usage("publish");
	enum lines_form form = p.prefixed ? LINES_PREFIXED : p.delimiter == -1 ? LINES_WHOLE : LINES_DELIMITED;
	lines_init_form(&p.lines, STDIN_FILENO, PAYLOAD_MAX, form, (uint8_t)p.delimiter);
	int r = dial_init(&p.dial, &p.dial_opts) ? tool_unreachable(p.dial_opts.server, p.dial.why) : run(&p);
	p.exit_code = r; /* what ends now ends unseen */
	dial_done(&p.dial);
	lines_done(&p.lines);
	if (p.file_fd >= 0)
		close(p.file_fd);
	if (p.files)
		free(p.args);
	for (uint32_t i = 0; i < p.queued; i++)
		free(item_at(&p, i)->p);
	free(p.message);
	return r;
}
