/* `ordinal top`: the daemon's figures, read again and again, as a screen (top_view.c draws it).
 *
 * On a terminal: the alternate screen, without echo or line mode, given back at the end however it comes (q, SIGINT, SIGTERM, an error). With
 * --once, or where standard output is no terminal: plain text. Main thread. */
#include "tools/stats_read.h"
#include "tools/tool.h"
#include "tools/top_view.h"

#include "core/base/clock.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static const char usage[] =
	"usage: ordinal top [OPTION]...\n\n"
	"Shows what the daemon is doing, the one on this machine or with --server any that can be reached: rates are of the last interval, latencies\n"
	"since the daemon's start. q or Ctrl-C ends it.\n\n"
	"  --interval DURATION    between two readings (default 1s)\n"
	"  --once                 one interval, as plain text, and end\n" STATS_SOURCE_HELP "\n" TOOL_EXIT_CODES;

enum { OPT_INTERVAL = 256, OPT_ONCE, OPT_HELP };
static const struct option options[] = {
	{"interval", required_argument, NULL, OPT_INTERVAL},
	{"once", no_argument, NULL, OPT_ONCE},
	{"help", no_argument, NULL, OPT_HELP},
	STATS_SOURCE_OPTIONS,
	{NULL, 0, NULL, 0},
};

enum { ROWS_PLAIN = 1000, ROWS_HEAD = 22 /* lines that are not rows of streams and sequences, about */ };

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

static int take_reading(struct stats_source *source, struct top_reading *ret)
{
	int r = stats_read_json(source, &ret->stats);
	ret->mono_ns = clock_mono_ns();
	return r;
}

/* Waits for the interval. True: the end is wanted, or nobody reads. */
static bool wait_interval(uint64_t ns, bool keys)
{
	uint64_t until = clock_mono_ns() + ns;
	for (uint64_t now = clock_mono_ns(); now < until && !stopped; now = clock_mono_ns()) {
		struct pollfd p[] = {{.fd = keys ? STDIN_FILENO : -1, .events = POLLIN}, {.fd = STDOUT_FILENO}};
		int r = poll(p, 2, (int)((until - now) / NS_PER_MS) + 1);
		char c;
		if (r > 0 && (p[1].revents & (POLLERR | POLLHUP)))
			return true;
		if (r <= 0 || !(p[0].revents & POLLIN))
			continue;
		if (read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 'Q' || c == 3)
			return true;
	}
	return stopped;
}

/* The text, each line cut at `columns`, from the top left corner. */
static void draw(const char *text, unsigned rows, unsigned columns)
{
	fputs("\033[H", stdout);
	for (unsigned row = 0; row + 1 < rows && *text; row++) {
		unsigned column = 0;
		const char *p = text;
		for (; *p && *p != '\n'; p++) {
			bool begins = ((unsigned char)*p & 0xc0) != 0x80; /* a UTF-8 character */
			if (begins && column == columns)
				break;
			column += begins;
		}
		fwrite(text, 1, (size_t)(p - text), stdout);
		fputs("\033[K\r\n", stdout);
		text = p + strcspn(p, "\n");
		text += *text == '\n';
	}
	fputs("\033[J", stdout);
	fflush(stdout);
}

static int show(const struct top_reading *now, const struct top_reading *before, bool screen)
{
	struct winsize w = {0};
	char *text = NULL;
	size_t n;
	if (!screen) {
		top_view(stdout, now, before, ROWS_PLAIN);
		return fflush(stdout) ? TOOL_FAILED : TOOL_OK;
	}
	ioctl(STDOUT_FILENO, TIOCGWINSZ, &w);
	if (w.ws_row == 0 || w.ws_col == 0) /* a terminal that does not know its size */
		w = (struct winsize){.ws_row = 24, .ws_col = 80};
	FILE *f = open_memstream(&text, &n);
	if (!f)
		return TOOL_FAILED;
	top_view(f, now, before, w.ws_row > ROWS_HEAD + 6 ? (w.ws_row - ROWS_HEAD) / 2u : 3);
	if (fclose(f) == 0)
		draw(text, w.ws_row, w.ws_col);
	free(text);
	return TOOL_OK;
}

static int loop(struct stats_source *source, uint64_t interval_ns, bool once, bool screen, bool keys)
{
	struct top_reading before = {0}, now = {0};
	int r = take_reading(source, &before);
	if (r)
		return r;
	if (screen)
		r = show(&before, &before, screen);
	while (r == TOOL_OK && !wait_interval(interval_ns, keys)) {
		r = take_reading(source, &now);
		if (r)
			break;
		r = show(&now, &before, screen);
		stats_reading_done(&before.stats);
		before = now;
		if (once)
			break;
	}
	stats_reading_done(&before.stats);
	return r == TOOL_OK && tool_reader_gone() ? tool_unread() : r;
}

static int run(struct stats_source *source, uint64_t interval_ns, bool once)
{
	struct termios was, raw;
	bool screen = !once && isatty(STDOUT_FILENO), keys = screen && tcgetattr(STDIN_FILENO, &was) == 0;
	struct sigaction sa = {.sa_handler = on_signal};
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (keys) {
		raw = was;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	/* What goes wrong on the alternate screen would vanish with it: standard error is written after it is left. */
	char *errors = NULL;
	size_t errors_n;
	FILE *real = stderr, *kept = screen ? open_memstream(&errors, &errors_n) : NULL;
	if (kept)
		stderr = kept;
	if (screen)
		fputs("\033[?1049h\033[?25l", stdout);
	int r = loop(source, interval_ns, once, screen, keys);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &was);
	if (stopped && tool_would_wait(STDOUT_FILENO)) /* a reader who has stopped; a second signal is not needed */
		_exit(TOOL_FAILED);
	if (screen)
		fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (kept) {
		stderr = real;
		fclose(kept);
		fwrite(errors, 1, errors_n, stderr);
		free(errors);
	}
	return r;
}

int cmd_top(int argc, char **argv)
{
	struct stats_source source;
	uint64_t interval_ns = NS_PER_S;
	bool once = false;
	int opt;
	stats_source_init(&source);
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case OPT_INTERVAL:
			if (tool_duration("--interval", optarg, &interval_ns))
				return tool_usage("top");
			break;
		case OPT_ONCE:
			once = true;
			break;
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			return TOOL_OK;
		default:
			if (stats_source_option(&source, opt))
				return tool_usage("top");
		}
	}
	if (tool_no_arguments("top", argc, argv))
		return TOOL_USAGE;
	if (interval_ns < 50 * NS_PER_MS || interval_ns > 3600 * NS_PER_S) {
		fprintf(stderr, "ordinal: --interval is from 50ms to 1h\n");
		return tool_usage("top");
	}
	if (stats_source_check(&source, "top"))
		return TOOL_USAGE;
	int r = run(&source, interval_ns, once);
	stats_source_done(&source);
	return r;
}
