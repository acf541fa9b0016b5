/* ordinald: the daemon's main thread. Arguments, signals, the systemd protocol, and the order of start and stop; what the daemon is made of is
 * daemon.c's.
 *
 * Exit codes: 0 a clean stop; 1 it could not start, or the journal failed; 2 usage or configuration. --check-data has codes of its own.
 */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/std_fds.h"
#include "rpc/daemon.h"
#include "rpc/notify.h"
#include "rpc/refusals.h"
#include "rpc/reload.h"
#include "rpc/report.h"
#include "rpc/statsock.h"
#include "rpc/svc_feed.h"
#include "rpc/upkeep.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum { OVERRIDES_MAX = 256 };

struct args {
	const char *file;
	const char *overrides[OVERRIDES_MAX];
	size_t override_count;
	bool check, dump, diff;
	const char *check_data, *quarantine, *accept_loss; /* what they are to be done to */
	uint64_t above;
};

static void usage(FILE *f)
{
	fputs("usage: ordinald [-c FILE] [-o KEY=VALUE]... [--check | --dump-config | --diff]\n"
	      "       ordinald --check-data DIR\n"
	      "       ordinald [-c FILE] [-o KEY=VALUE]... --quarantine STREAM | --accept-loss NAME [--above ID]\n"
	      "\n"
	      "Hands out strictly increasing IDs and broadcasts ordered, durable frames.\n"
	      "\n"
	      "  -c, --config FILE   read options from FILE (CONFIG_KEY=value lines, as `make menuconfig` writes them)\n"
	      "  -o KEY=VALUE        set one option; stronger than the file\n"
	      "      --check         check the configuration and exit\n"
	      "      --dump-config   print the configuration in force and exit\n"
	      "      --diff          print what differs from the defaults and exit\n"
	      "      --check-data DIR\n"
	      "                      read everything in the data directory DIR, change nothing, say what is damaged,\n"
	      "                      and exit: 0 sound, 1 damaged, 2 it could not be checked\n"
	      "      --quarantine STREAM\n"
	      "                      while no daemon runs: set the stream's log aside, so that it can begin anew\n"
	      "      --accept-loss NAME\n"
	      "                      while no daemon runs: go on without a log that is missing or cannot be read, for\n"
	      "                      good. NAME is a stream's, or ids: then IDs may be handed out again\n"
	      "      --above ID      with --accept-loss ids: hand out no ID at or below this one any more\n"
	      "  -h, --help          this text and all options\n"
	      "  -V, --version\n"
	      "\n"
	      "SIGTERM and SIGINT drain and stop, a second one at once; SIGHUP reopens the log and reads\n"
	      "the configuration, certificates and rules of access again; what can, changes at once.\n"
	      "Exit codes: 0 stopped cleanly, 1 could not start or the journal failed, 2 usage or configuration.\n"
	      "\n",
	      f);
	config_help(f);
}

static bool parse_above(const char *text, uint64_t *ret)
{
	char *stop;
	errno = 0;
	unsigned long long v = strtoull(text, &stop, 10);
	bool good = text[0] >= '0' && text[0] <= '9' && *stop == 0 && errno == 0 && v >= 1 && v <= UPKEEP_ABOVE_MAX;
	*ret = v;
	if (!good)
		fprintf(stderr, "ordinald: --above takes an ID, from 1 to %" PRIu64 ", not \"%s\"\n", UPKEEP_ABOVE_MAX,
			text);
	return good;
}

/* 0 go on; else exit with *ret_code. */
static int parse(int argc, char **argv, struct args *a, int *ret_code)
{
	enum { OPT_CHECK = 256, OPT_DUMP, OPT_DIFF, OPT_CHECK_DATA, OPT_QUARANTINE, OPT_ACCEPT_LOSS, OPT_ABOVE };
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
					      {"check", no_argument, NULL, OPT_CHECK},
					      {"dump-config", no_argument, NULL, OPT_DUMP},
					      {"help", no_argument, NULL, 'h'},
					      {"version", no_argument, NULL, 'V'},
					      {"diff", no_argument, NULL, OPT_DIFF},
					      {"check-data", required_argument, NULL, OPT_CHECK_DATA},
					      {"quarantine", required_argument, NULL, OPT_QUARANTINE},
					      {"accept-loss", required_argument, NULL, OPT_ACCEPT_LOSS},
					      {"above", required_argument, NULL, OPT_ABOVE},
					      {0}};
	*ret_code = 2;
	for (int c; (c = getopt_long(argc, argv, "c:o:hV", longs, NULL)) != -1;) {
		switch (c) {
		case 'c':
			a->file = optarg;
			break;
		case 'o':
			if (a->override_count == OVERRIDES_MAX) {
				fprintf(stderr, "ordinald: more than %d times -o\n", OVERRIDES_MAX);
				return -1;
			}
			a->overrides[a->override_count++] = optarg;
			break;
		case OPT_CHECK:
			a->check = true;
			break;
		case OPT_DUMP:
			a->dump = true;
			break;
		case OPT_DIFF:
			a->diff = true;
			break;
		case OPT_CHECK_DATA:
			a->check_data = optarg;
			break;
		case OPT_QUARANTINE:
			a->quarantine = optarg;
			break;
		case OPT_ACCEPT_LOSS:
			a->accept_loss = optarg;
			break;
		case OPT_ABOVE:
			if (!parse_above(optarg, &a->above))
				return -1;
			break;
		case 'h':
			usage(stdout);
			*ret_code = 0;
			return -1;
		case 'V':
			puts("ordinald " ORDINAL_VERSION);
			*ret_code = 0;
			return -1;
		default:
			fputs("try `ordinald --help`\n", stderr);
			return -1;
		}
	}
	if ((a->quarantine && a->accept_loss) || (a->above && !a->accept_loss)) {
		fputs(a->above ? "ordinald: --above is for --accept-loss ids\n"
			       : "ordinald: either --quarantine or --accept-loss, one at a time\n",
		      stderr);
		return -1;
	}
	if (optind < argc) {
		fprintf(stderr, "ordinald: unexpected argument \"%s\"; options are set with -o KEY=VALUE\n",
			argv[optind]);
		return -1;
	}
	return 0;
}

static int block_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* What the main thread looks after. */
struct supervisor {
	struct daemon d;
	struct reload_source source;
	int signals;
	struct report *report;
	struct statsock *stats; /* NULL: no stats socket */
	uint64_t watchdog_ns;   /* how often systemd is to hear of us; 0: not */
	uint64_t watchdog_next_ns;
	bool draining;
	bool failed;
};

static void begin_drain(struct supervisor *s)
{
	if (s->draining)
		return;
	s->draining = true;
	notify("STOPPING=1\nSTATUS=Draining");
	pages_hurry(s->d.pages);
	daemon_drain(&s->d);
}

/* What the service's state has to say of streams that are not served; "" when all are. */
static const char *say_stopped(const struct daemon *d, char *buf, size_t cap)
{
	uint32_t n = streams_stopped(d->streams);
	buf[0] = 0;
	if (n)
		snprintf(buf, cap, "; %" PRIu32 " streams are damaged and not served", n);
	return buf;
}

/* SIGHUP. systemd is told when it begins and ends, and of the outcome. */
static void on_hangup(struct supervisor *s)
{
	char answer[RELOAD_ANSWER], damaged[64];
	notify("RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=Reloading", clock_mono_ns() / NS_PER_US);
	log_reopen();
	log_info("SIGHUP: the log was reopened; reading the configuration again");
	reload(&s->d, &s->source, answer);
	notify("READY=1\nSTATUS=%sListening on %s with %u shards%s. %s", s->draining ? "Draining. " : "", s->d.bound,
	       s->d.topo.shards, say_stopped(&s->d, damaged, sizeof damaged), answer);
}

static void on_signals(struct supervisor *s)
{
	struct signalfd_siginfo si;
	while (read(s->signals, &si, sizeof si) == sizeof si) {
		const char *name = si.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT";
		if (si.ssi_signo == SIGHUP) {
			on_hangup(s);
		} else if (!s->draining) {
			log_info("%s: draining; a second one closes what is still open", name);
			begin_drain(s);
		} else {
			log_info("%s: closing all connections", name);
			daemon_hurry(&s->d);
		}
	}
}

static void on_fds(struct supervisor *s, const struct pollfd *fds)
{
	uint64_t n;
	if (fds[0].revents)
		on_signals(s);
	if (fds[1].revents && read(s->d.fail_fd, &n, sizeof n) == sizeof n)
		begin_drain(s);
	if (fds[2].revents && read(s->d.ended_fd, &n, sizeof n) == sizeof n && !s->draining) {
		log_error("a shard has ended by a failure; stopping");
		s->failed = true;
		begin_drain(s);
	}
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Does what is due, and returns when something will be. */
static uint64_t on_time(struct supervisor *s)
{
	uint64_t now = clock_mono_ns(), next = UINT64_MAX;
	if (s->watchdog_ns) {
		if (now >= s->watchdog_next_ns) {
			if (daemon_is_alive(&s->d))
				notify("WATCHDOG=1");
			s->watchdog_next_ns = now + s->watchdog_ns;
		}
		next = s->watchdog_next_ns;
	}
	if (now >= report_due_ns(s->report))
		report_sample(s->report, now);
	next = sooner(next, report_due_ns(s->report));
	next = sooner(next, notify_turn(now));
	if (s->stats) {
		statsock_turn(s->stats, now);
		next = sooner(next, statsock_next_ns(s->stats));
	}
	return sooner(next, pages_turn(s->d.pages, now, report_reply, s->report));
}

/* Until every shard has ended: after a signal, or a failure. */
static void serve(struct supervisor *s)
{
	struct pollfd fds[] = {{s->signals, POLLIN, 0},
			       {s->d.fail_fd, POLLIN, 0},
			       {s->d.ended_fd, POLLIN, 0},
			       {s->stats ? statsock_fd(s->stats) : -1, POLLIN, 0},
			       {pages_fd(s->d.pages), POLLIN, 0}};
	uint64_t us = 0;
	if (sd_watchdog_enabled(0, &us) > 0)
		s->watchdog_ns = us * 1000 / 4;
	daemon_is_alive(&s->d);
	while (!daemon_is_drained(&s->d)) {
		uint64_t next = on_time(s), now = clock_mono_ns();
		int timeout = next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now) / NS_PER_MS) + 1;
		if (poll(fds, sizeof fds / sizeof *fds, timeout) > 0)
			on_fds(s, fds);
	}
}

static unsigned get_stats(void *ctx, struct span path, struct text *body, const char **ret_type)
{
	const struct supervisor *s = ctx;
	return report_get(s->report, path, body, ret_type);
}

/* Before the daemon, so that a second one on the same path is told early; it is first answered when everything runs. */
static int open_stats(struct supervisor *s, const struct config *c, const char **ret_why)
{
	struct statsock_opts o = {.path = c->stats_socket,
				  .conns_max = (unsigned)c->stats_clients_max,
				  .idle_ns = (uint64_t)c->stats_timeout_ms * NS_PER_MS,
				  .get = get_stats,
				  .ctx = s};
	return *c->stats_socket ? statsock_open(&o, &s->stats, ret_why) : 0;
}

/* Takes the configuration over. */
static int start(struct supervisor *s, struct config *cfg, const char **ret_why)
{
	int rc = open_stats(s, cfg, ret_why);
	if (rc) {
		config_done(cfg);
		return rc;
	}
	rc = daemon_start(&s->d, cfg, ret_why);
	if (rc == 0) {
		rc = report_new(&s->d, &s->report);
		if (rc) {
			*ret_why = "no memory for the stats";
			daemon_stop(&s->d);
		} else {
			refusals_report(s->report);
			if (s->stats)
				statsock_bound(s->stats, s->d.fds.stats_clients);
			feed_join_report(s->d.feed, s->report);
			report_join_pages(s->report, s->d.pages);
		}
	}
	if (rc)
		statsock_close(s->stats);
	return rc;
}

static int run(struct config *cfg, const struct args *a)
{
	static struct supervisor s;
	s.source = (struct reload_source){a->file, a->overrides, a->override_count};
	const char *why;
	s.signals = block_signals();
	int rc = log_init(cfg->log_target, (enum log_level)cfg->log_level);
	if (rc) {
		fprintf(stderr, "ordinald: LOG_TARGET=\"%s\": %s\n", cfg->log_target, strerror(-rc));
		config_done(cfg);
		return 1;
	}
	log_thread_register("main");
	bool wrong = daemon_check(cfg, &why) != 0;
	if (wrong)
		config_done(cfg);
	rc = wrong ? -EINVAL : start(&s, cfg, &why);
	if (rc) {
		log_error("cannot start: %s", why);
		notify("STATUS=cannot start: %s\nERRNO=%d", why, -rc);
		log_thread_unregister();
		log_done();
		return wrong ? 2 : 1;
	}
	char text[256];
	log_info("ordinald " ORDINAL_VERSION " listens on %s: %s", s.d.bound,
		 topo_describe(&s.d.topo, text, sizeof text));
	char damaged[64];
	notify("READY=1\nSTATUS=Listening on %s with %u shards%s", s.d.bound, s.d.topo.shards,
	       say_stopped(&s.d, damaged, sizeof damaged));
	serve(&s);
	bool failed = s.failed || journal_has_failed(s.d.journal);
	statsock_close(s.stats);
	report_free(s.report);
	rc = daemon_stop(&s.d);
	log_info("stopped%s", rc || failed ? " after a failure" : "");
	log_thread_unregister();
	log_done();
	return rc || failed ? 1 : 0;
}

static int do_all(int argc, char **argv)
{
	struct args a = {0};
	struct config cfg;
	struct config_error why;
	int code;
	if (parse(argc, argv, &a, &code))
		return code;
	if (a.check_data)
		return upkeep_check_data(a.check_data);
	if (config_load(&cfg, a.file, a.overrides, a.override_count, &why)) {
		fprintf(stderr, "ordinald: %s\n", why.text);
		return 2;
	}
	const char *rules_why;
	if (streams_rules_check(cfg.feed_durability_rules, &rules_why)) {
		fprintf(stderr, "ordinald: CONFIG_FEED_DURABILITY_RULES is \"%.100s\": %s\n", cfg.feed_durability_rules,
			rules_why);
		config_done(&cfg);
		return 2;
	}
	const char *check_why;
	if (a.check && daemon_check(&cfg, &check_why)) {
		fprintf(stderr, "ordinald: %s\n", check_why);
		config_done(&cfg);
		return 2;
	}
	if (a.dump)
		config_dump(&cfg, stdout);
	else if (a.diff)
		config_diff(&cfg, stdout);
	else if (a.check)
		puts("ordinald: the configuration is valid");
	if (a.dump || a.check || a.diff) {
		config_done(&cfg);
		return 0;
	}
	if (a.quarantine || a.accept_loss) {
		code = a.quarantine ? upkeep_quarantine(&cfg, a.quarantine)
				    : upkeep_accept_loss(&cfg, a.accept_loss, a.above);
		config_done(&cfg);
		return code;
	}
	return run(&cfg, &a);
}

int main(int argc, char **argv)
{
	std_fds_open(STD_FDS_SERVER);
	return std_fds_close("ordinald", do_all(argc, argv), 1);
}
