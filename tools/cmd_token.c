/* `ordinal token`: a new random token, and the line for ACCESS_FILE that gives it rights. The line is parsed as ordinald will parse it, so what is
 * printed is good. Main thread; asks no server. */
#include "tools/tool.h"

#include "rpc/access.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { RANDOM_BYTES = 32, LINE_MAX_BYTES = 64 << 10 };

static const char usage[] =
	"usage: ordinal token [OPTION]... NAME RIGHT...\n\n"
	"Makes a random token for NAME and prints it, with the line to add to ordinald's ACCESS_FILE; then send ordinald SIGHUP\n"
	"(`systemctl reload ordinald`). The line holds only a digest of the token, which cannot be had again from it.\n\n"
	"Rights: ids:PATTERN, publish:PATTERN, subscribe:PATTERN (of sequences and streams; '*' is any bytes, '?' one), stats, admin.\n\n"
	"  --out FILE    write the token to a new file that only its owner may read, and print only the line:\n"
	"                ordinal token --out billing.token billing 'ids:invoice.*' >> /etc/ordinal/access\n"
	"  --until TIME  the last moment of its use, in UTC: 2027-01-31 or 2027-01-31T12:00:00Z\n\n"
	"Clients send it as `authorization: Bearer TOKEN`; ordinal's commands with --token-file FILE or $ORDINAL_TOKEN.\n\n" TOOL_EXIT_CODES;

struct token {
	char text[4 + 2 * RANDOM_BYTES + 1];
	char digest[2 * ACCESS_DIGEST + 1];
};

static void put_hex(char *to, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		snprintf(to + 2 * i, 3, "%02x", p[i]);
}

static int make_token(struct token *t)
{
	uint8_t bytes[RANDOM_BYTES], digest[ACCESS_DIGEST];
	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
		perror("ordinal: no random bytes");
		return -EIO;
	}
	/* Named, so that people and scanners of leaked secrets know what they have found. */
	memcpy(t->text, "ord_", 4);
	put_hex(t->text + 4, bytes, sizeof bytes);
	access_digest((struct span){(const uint8_t *)t->text, strlen(t->text)}, digest);
	put_hex(t->digest, digest, sizeof digest);
	return 0;
}

/* Words with blanks or a '#' in them need quotes. */
static size_t add_word(char *line, size_t at, const char *word)
{
	bool quote = !*word || strpbrk(word, " \t#") != NULL;
	int n = at < LINE_MAX_BYTES ? snprintf(line + at, LINE_MAX_BYTES - at, "%s%s%s%s", at ? "  " : "",
					       quote ? "\"" : "", word, quote ? "\"" : "")
				    : 0;
	return at + (n > 0 ? (size_t)n : 0);
}

static int make_line(char *line, const struct token *t, const char *until, int argc, char **argv)
{
	char word[ACCESS_WORD_MAX];
	struct access *a;
	const char *why;
	size_t n = add_word(line, 0, argv[0]);
	snprintf(word, sizeof word, "sha256:%s", t->digest);
	n = add_word(line, n, word);
	if (until) {
		snprintf(word, sizeof word, "until:%s", until);
		n = add_word(line, n, word);
	}
	for (int i = 1; i < argc; i++)
		n = add_word(line, n, argv[i]);
	for (int i = 0; i < argc; i++) {
		if (strchr(argv[i], '"')) {
			fprintf(stderr, "ordinal: names and patterns cannot have quotes in them\n");
			return -EINVAL;
		}
	}
	if (n >= LINE_MAX_BYTES) {
		fprintf(stderr, "ordinal: the line would be too long\n");
		return -EINVAL;
	}
	if (access_parse((struct span){(const uint8_t *)line, n}, "the line", &a, &why)) {
		fprintf(stderr, "ordinal: %s\n", why);
		return -EINVAL;
	}
	access_put(a);
	return 0;
}

static int write_token(const char *path, const struct token *t)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	if (f && fprintf(f, "%s\n", t->text) > 0 && fclose(f) == 0)
		return 0;
	fprintf(stderr, "ordinal: --out %s: %s\n", path, strerror(errno));
	return -EIO;
}

int cmd_token(int argc, char **argv)
{
	enum { OPT_OUT = 256, OPT_UNTIL, OPT_HELP };
	static const struct option options[] = {{"out", required_argument, NULL, OPT_OUT},
						{"until", required_argument, NULL, OPT_UNTIL},
						{"help", no_argument, NULL, OPT_HELP},
						{NULL, 0, NULL, 0}};
	const char *out = NULL, *until = NULL;
	struct token t;
	static char line[LINE_MAX_BYTES];
	for (int opt; (opt = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		if (opt == OPT_HELP || opt == 'h') {
			fputs(usage, stdout);
			return TOOL_OK;
		}
		if (opt == OPT_OUT)
			out = optarg;
		else if (opt == OPT_UNTIL)
			until = optarg;
		else
			return tool_usage("token");
	}
	if (argc - optind < 2) {
		fprintf(stderr, "ordinal: token takes a name and at least one right\n");
		return tool_usage("token");
	}
	if (make_token(&t))
		return TOOL_FAILED;
	if (make_line(line, &t, until, argc - optind, argv + optind))
		return tool_usage("token");
	if (out && write_token(out, &t))
		return TOOL_FAILED;
	if (!out)
		printf("The token, which is shown only now:\n%s\nThe line for ACCESS_FILE:\n", t.text);
	puts(line);
	return TOOL_OK;
}
