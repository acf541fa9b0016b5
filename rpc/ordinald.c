/* ordinald: the daemon's main thread. Arguments, signals, the systemd protocol, and the order of start and stop; what the daemon is made of is
 * daemon.c's.
 *
 * Exit codes: 0 a clean stop; 1 it could not start, or the journal failed; 2 usage or configuration.
 */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "rpc/daemon.h"

#include <errno.h>
#include <getopt.h>
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
	bool check, dump;
};

static void usage(FILE *f)
{
	fputs("usage: ordinald [-c FILE] [-o KEY=VALUE]... [--check | --dump-config]\n"
	      "\n"
	      "Hands out strictly increasing IDs and broadcasts ordered, durable frames.\n"
	      "\n"
	      "  -c, --config FILE   read options from FILE (CONFIG_KEY=value lines, as `make menuconfig` writes them)\n"
	      "  -o KEY=VALUE        set one option; stronger than the file\n"
	      "      --check         check the configuration and exit\n"
	      "      --dump-config   print the configuration in force and exit\n"
	      "  -h, --help          this text and all options\n"
	      "  -V, --version\n"
	      "\n"
	      "SIGTERM and SIGINT drain and stop; SIGHUP reopens the log.\n"
	      "Exit codes: 0 stopped cleanly, 1 could not start or the journal failed, 2 usage or configuration.\n"
	      "\n",
	      f);
	config_help(f);
}

/* 0 go on; else exit with *ret_code. */
static int parse(int argc, char **argv, struct args *a, int *ret_code)
{
	enum { OPT_CHECK = 256, OPT_DUMP };
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
					      {"check", no_argument, NULL, OPT_CHECK},
					      {"dump-config", no_argument, NULL, OPT_DUMP},
					      {"help", no_argument, NULL, 'h'},
					      {"version", no_argument, NULL, 'V'},
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
	if (optind < argc) {
		fprintf(stderr, "ordinald: unexpected argument \"%s\"; options are set with -o KEY=VALUE\n", argv[optind]);
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

/* true: stop. */
static bool on_signal(int fd)
{
	struct signalfd_siginfo si;
	while (read(fd, &si, sizeof si) == sizeof si) {
		if (si.ssi_signo == SIGHUP) {
			log_reopen();
			log_info("SIGHUP: the log was reopened");
			continue;
		}
		log_info("%s: draining", si.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		return true;
	}
	return false;
}

static void serve(struct daemon *d, int signals)
{
	uint64_t watchdog_us = 0;
	bool watched = sd_watchdog_enabled(0, &watchdog_us) > 0;
	uint64_t period_ns = watched ? watchdog_us * 1000 / 4 : UINT64_MAX, next = clock_mono_ns();
	struct pollfd fds[] = {{signals, POLLIN, 0}, {d->fail_fd, POLLIN, 0}};
	daemon_is_alive(d);
	for (;;) {
		uint64_t now = clock_mono_ns();
		if (watched && now >= next) {
			if (daemon_is_alive(d))
				sd_notify(0, "WATCHDOG=1");
			next = now + period_ns;
		}
		int timeout = watched ? (int)((next - now) / NS_PER_MS) + 1 : -1;
		if (poll(fds, 2, timeout) < 0 && errno != EINTR)
			return;
		if (fds[1].revents || (fds[0].revents && on_signal(signals)))
			return;
	}
}

static int run(const struct config *cfg)
{
	static struct daemon d;
	const char *why;
	int signals = block_signals();
	int rc = log_init(cfg->log_target, (enum log_level)cfg->log_level);
	if (rc) {
		fprintf(stderr, "ordinald: LOG_TARGET=\"%s\": %s\n", cfg->log_target, strerror(-rc));
		return 1;
	}
	log_thread_register("main");
	rc = daemon_start(&d, cfg, &why);
	if (rc) {
		log_error("cannot start: %s", why);
		sd_notifyf(0, "STATUS=cannot start: %s\nERRNO=%d", why, -rc);
		log_thread_unregister();
		log_done();
		return 1;
	}
	char text[256];
	log_info("ordinald " ORDINAL_VERSION " listens on %s: %s", d.bound, topo_describe(&d.topo, text, sizeof text));
	sd_notifyf(0, "READY=1\nSTATUS=Listening on %s with %u shards", d.bound, d.topo.shards);
	serve(&d, signals);
	sd_notify(0, "STOPPING=1\nSTATUS=Draining");
	bool failed = journal_has_failed(d.journal);
	rc = daemon_stop(&d);
	log_info("stopped%s", rc || failed ? " after a failure" : "");
	log_thread_unregister();
	log_done();
	return rc || failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct args a = {0};
	struct config cfg;
	struct config_error why;
	int code;
	if (parse(argc, argv, &a, &code))
		return code;
	if (config_load(&cfg, a.file, a.overrides, a.override_count, &why)) {
		fprintf(stderr, "ordinald: %s\n", why.text);
		return 2;
	}
	if (a.dump)
		config_dump(&cfg, stdout);
	else if (a.check)
		puts("ordinald: the configuration is valid");
	if (a.dump || a.check) {
		config_done(&cfg);
		return 0;
	}
	return run(&cfg);
}
