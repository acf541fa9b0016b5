/* The configuration reader: what it takes, in which order, and with which sentence it refuses. */
#include "core/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__}), sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)

static char path[64]; /* a scratch file of the running test */
static struct config_error why;

static void write_file(const void *text, size_t n)
{
	snprintf(path, sizeof path, "/tmp/test_config.XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
}

static int setup(void **state)
{
	path[0] = '\0';
	memset(&why, 0, sizeof why);
	return 0;
}

static int teardown(void **state)
{
	if (path[0])
		unlink(path);
	return 0;
}

/* Loads `text` as a file; 0 or the error. */
static int load_text(struct config *c, const char *text)
{
	write_file(text, strlen(text));
	return config_load(c, path, NULL, 0, &why);
}

static void contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

/* The file is refused in line `line`, in words that contain `part`. */
static void file_refused(const char *text, unsigned line, const char *part)
{
	struct config c, untouched;
	char place[96];
	memset(&c, 0x5a, sizeof c);
	untouched = c;
	assert_int_equal(load_text(&c, text), -EINVAL);
	assert_memory_equal(&c, &untouched, sizeof c);
	snprintf(place, sizeof place, "%s:%u: ", path, line);
	if (strncmp(why.text, place, strlen(place)) != 0)
		fail_msg("\"%s\" does not begin with \"%s\"", why.text, place);
	contains(why.text, part);
	unlink(path);
	path[0] = '\0';
}

static void file_taken(const char *text, struct config *c)
{
	if (load_text(c, text))
		fail_msg("refused: %s", why.text);
	unlink(path);
	path[0] = '\0';
}

static void override_refused(const char *override, const char *part)
{
	struct config c;
	assert_int_equal(config_load(&c, NULL, &override, 1, &why), -EINVAL);
	contains(why.text, "-o");
	contains(why.text, part);
}

static void override_taken(const char *override, struct config *c)
{
	if (config_load(c, NULL, &override, 1, &why))
		fail_msg("refused: %s", why.text);
}

static void defaults_are_those_of_kconfig(void **state)
{
	struct config c;
	assert_int_equal(config_load(&c, NULL, NULL, 0, &why), 0);
	assert_string_equal(c.listen, "127.0.0.1:50051");
	assert_string_equal(c.data_dir, "/var/lib/ordinal");
	assert_string_equal(c.stats_socket, "/run/ordinal/stats.sock");
	assert_string_equal(c.cpus, "");
	assert_string_equal(c.log_target, "auto");
	assert_int_equal(c.shards, 0);
	assert_int_equal(c.id_order, ID_ORDER_STRICT);
	assert_int_equal(c.feed_durability, FEED_DURABILITY_FSYNC);
	assert_int_equal(c.log_level, LOG_LEVEL_INFO);
	assert_int_equal(c.window_max, 4000000);
	assert_int_equal(c.message_max, (4 << 20) + (64 << 10));
	assert_true(c.numa);
	assert_true(c.sequence_create);
	assert_false(c.allow_cleartext);
	config_done(&c);
}

/* A limit that could not be in force is refused, where somebody has set it. */
static void a_frame_has_to_fit(void **state)
{
	struct config c;
	override_refused("FEED_FRAME_MAX=20000000", "CONFIG_FEED_FRAME_MAX");
	override_refused("FEED_FRAME_MAX=4259585", "CONFIG_MESSAGE_MAX");
	override_taken("FEED_FRAME_MAX=4259584", &c);
	config_done(&c);
	assert_int_equal(load_text(&c, "CONFIG_FEED_SEGMENT_BYTES=1048576\nCONFIG_FEED_FRAME_MAX=1040129\n"), -EINVAL);
	contains(why.text, "CONFIG_FEED_SEGMENT_BYTES");
	unlink(path);
	path[0] = '\0';
	file_taken("CONFIG_FEED_SEGMENT_BYTES=1048576\nCONFIG_FEED_FRAME_MAX=1040128\n", &c);
	config_done(&c);
	file_taken("CONFIG_FEED_SEGMENT_BYTES=1048576\n", &c); /* nobody has asked for larger frames */
	assert_int_equal(c.feed_frame_max, 1040128);
	config_done(&c);
}

struct pair {
	const char *bound;              /* set alone, it is taken */
	const char *refused, *accepted; /* set besides */
	const char *why;
};

/* Of two limits that were set, neither is quietly another one than was set. */
static void limits_that_cannot_hold_together_are_refused(void **state)
{
	static const struct pair pairs[] = {
		{"MESSAGE_MAX=100000", "FEED_FRAME_MAX=99745", "FEED_FRAME_MAX=99744",
		 "CONFIG_FEED_FRAME_MAX (-o) is 99745 and can be at most 99744 where CONFIG_MESSAGE_MAX (-o) is 100000"},
		{"FEED_SEGMENT_BYTES=1048576", "FEED_FRAME_MAX=1040129", "FEED_FRAME_MAX=1040128",
		 "at most 1040128 where CONFIG_FEED_SEGMENT_BYTES (-o) is 1048576"},
		{"FEED_HELD_MAX=1048576", "FEED_FRAME_MAX=524289", "FEED_FRAME_MAX=524288",
		 "at most 524288 where CONFIG_FEED_HELD_MAX (-o) is 1048576"},
		{"FEED_LAG_MAX_BYTES=65536", "FEED_FRAME_MAX=65281", "FEED_FRAME_MAX=65280",
		 "at most 65280 where CONFIG_FEED_LAG_MAX_BYTES (-o) is 65536"},
		{"FEED_MEMORY_BYTES=1048576", "FEED_FRAME_MAX=261889", "FEED_FRAME_MAX=261888",
		 "at most 261888 where CONFIG_FEED_MEMORY_BYTES (-o) is 1048576"},
		{"FEED_READ_MAX=16777216", "FEED_FRAME_MAX=4194305", "FEED_FRAME_MAX=4194304",
		 "at most 4194304 where CONFIG_FEED_READ_MAX (-o) is 16777216"},
		{"FEED_REORDER_TOTAL=65536", "FEED_REORDER_BYTES=65537", "FEED_REORDER_BYTES=65536",
		 "CONFIG_FEED_REORDER_BYTES (-o) is 65537 and can be at most 65536 where CONFIG_FEED_REORDER_TOTAL (-o)"},
		{"STATS_CALLS_MAX=4", "STATS_CONN_CALLS_MAX=5", "STATS_CONN_CALLS_MAX=4",
		 "CONFIG_STATS_CONN_CALLS_MAX (-o) is 5 and can be at most 4 where CONFIG_STATS_CALLS_MAX (-o) is 4"},
		{"HEADER_CONTINUATIONS_MAX=0", "HEADER_LIST_MAX=16385", "HEADER_LIST_MAX=16384",
		 "CONFIG_HEADER_LIST_MAX (-o) is 16385 and can be at most 16384 where CONFIG_HEADER_CONTINUATIONS_MAX (-o) is 0"},
	};
	struct config c;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		override_taken(pairs[i].bound, &c);
		config_done(&c);
		assert_int_equal(config_load(&c, NULL, LIST(pairs[i].bound, pairs[i].refused), &why), -EINVAL);
		contains(why.text, pairs[i].why);
		if (config_load(&c, NULL, LIST(pairs[i].bound, pairs[i].accepted), &why))
			fail_msg("%s", why.text);
		config_done(&c);
	}
	override_refused("FEED_READ_MAX=1048576",
			 "CONFIG_FEED_FRAME_MAX (default) is 4193280 and can be at most 262144");
}

/* What is in force is what the dump shows, and the dump is taken for the same. */
static void defaults_yield_to_what_is_set(void **state)
{
	struct config c;
	assert_int_equal(
		config_load(&c, NULL, LIST("MESSAGE_MAX=65536", "STATS_CALLS_MAX=3", "FEED_REORDER_TOTAL=65536"), &why),
		0);
	assert_int_equal(c.feed_frame_max, 65280);
	assert_int_equal(c.stats_conn_calls_max, 3);
	assert_int_equal(c.feed_reorder_bytes, 65536);
	assert_int_equal(c.message_max, 65536);
	assert_int_equal(config_check(&c, &why), 0);
	config_done(&c);
	assert_int_equal(config_load(&c, NULL, LIST("FEED_MEMORY_BYTES=1048576"), &why), 0);
	assert_int_equal(c.feed_frame_max, 4193280);
	assert_int_equal(c.feed_memory_bytes, 2 * 4193280 + (512 << 10) + 512);
	assert_int_equal(config_check(&c, &why), 0);
	config_done(&c);
}

/* A configuration that writes out every default of an older version, whose frames were a little larger, is taken. */
static void defaults_of_an_older_version_are_taken(void **state)
{
	struct config c;
	file_taken(
		"CONFIG_FEED_FRAME_MAX=4194304\nCONFIG_MESSAGE_MAX=4259840\nCONFIG_FEED_SEGMENT_BYTES=67108864\n"
		"CONFIG_FEED_MEMORY_BYTES=33554432\nCONFIG_FEED_HELD_MAX=67108864\nCONFIG_FEED_LAG_MAX_BYTES=16777216\n"
		"CONFIG_FEED_REORDER_BYTES=1048576\nCONFIG_FEED_REORDER_TOTAL=67108864\n",
		&c);
	assert_int_equal(c.feed_frame_max, 4194304);
	config_done(&c);
}

static void every_default_is_in_its_range(void **state)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct config_option *o = &config_options[i];
		assert_true(*o->prompt && *o->help && *o->menu);
		if (o->kind == CONFIG_INT || o->kind == CONFIG_ENUM)
			assert_true(o->def_int >= o->min && o->def_int <= o->max);
	}
}

static void a_file_sets_every_kind(void **state)
{
	struct config c;
	file_taken("# a comment\n\n\t \nCONFIG_LISTEN=\"[::1]:7\"\nCONFIG_SHARDS=4\nCONFIG_NUMA=n\n"
		   "  CONFIG_LOG_LEVEL=\"debug\"  \r\nCONFIG_CPUS=\"\"\nCONFIG_FEED_DURABILITY=memory",
		   &c);
	assert_string_equal(c.listen, "[::1]:7");
	assert_int_equal(c.shards, 4);
	assert_false(c.numa);
	assert_int_equal(c.log_level, LOG_LEVEL_DEBUG);
	assert_string_equal(c.cpus, "");
	assert_int_equal(c.feed_durability, FEED_DURABILITY_MEMORY);
	assert_int_equal(c.window_min, 1000);
	config_done(&c);
}

static void an_empty_file_is_all_defaults(void **state)
{
	struct config c;
	file_taken("", &c);
	assert_int_equal(c.ring_entries, 1024);
	config_done(&c);
}

static void overrides_go_over_the_file_and_the_last_wins(void **state)
{
	struct config c;
	const char *text = "CONFIG_SHARDS=4\nCONFIG_ID_ORDER=\"sharded\"\nCONFIG_COUNT_MAX=5\n";
	write_file(text, strlen(text));
	assert_int_equal(config_load(&c, path, LIST("SHARDS=5", "ID_ORDER=strict", "CONFIG_SHARDS=6"), &why), 0);
	assert_int_equal(c.shards, 6);
	assert_int_equal(c.id_order, ID_ORDER_STRICT);
	assert_int_equal(c.count_max, 5);
	config_done(&c);
}

static void an_override_may_leave_out_prefix_and_quotes(void **state)
{
	static const char *const forms[] = {"DATA_DIR=/x y/z", "CONFIG_DATA_DIR=/x y/z", "DATA_DIR=\"/x y/z\"",
					    "CONFIG_DATA_DIR=\"/x y/z\""};
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		struct config c;
		override_taken(forms[i], &c);
		assert_string_equal(c.data_dir, "/x y/z");
		config_done(&c);
	}
	static const char *const empty[] = {"CPUS=", "CPUS=\"\""};
	for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
		struct config c;
		override_taken(empty[i], &c);
		assert_string_equal(c.cpus, "");
		config_done(&c);
	}
}

static void quotes_and_backslashes_are_as_kconfig_writes_them(void **state)
{
	struct config c;
	file_taken("CONFIG_DATA_DIR=\"/a \\\"b\\\" \\\\c # =\"\n", &c);
	assert_string_equal(c.data_dir, "/a \"b\" \\c # =");
	config_done(&c);
	override_taken("DATA_DIR=a\\b\"c", &c);
	assert_string_equal(c.data_dir, "a\\b\"c");
	config_done(&c);
	file_refused("CONFIG_DATA_DIR=\"/a\n", 1, "double quotes");
	file_refused("CONFIG_DATA_DIR=\"/a\" b\n", 1, "double quotes");
	file_refused("CONFIG_DATA_DIR=\"/a\\\n", 1, "double quotes");
	file_refused("CONFIG_DATA_DIR=/a b\n", 1, "double quotes");
	file_refused("CONFIG_DATA_DIR=/a#b\n", 1, "double quotes");
	override_refused("DATA_DIR=\"/a", "double quotes");
}

static void an_enumeration_may_be_named_in_each_form(void **state)
{
	static const char *const files[] = {
		"CONFIG_ID_ORDER=\"sharded\"\n",
		"CONFIG_ID_ORDER_SHARDED=y\n",
		"# CONFIG_ID_ORDER_STRICT is not set\nCONFIG_ID_ORDER_SHARDED=y\nCONFIG_ID_ORDER=\"sharded\"\n",
		"CONFIG_ID_ORDER_STRICT=n\nCONFIG_ID_ORDER=\"sharded\"\nCONFIG_ID_ORDER_SHARDED=y\n",
		"# CONFIG_ID_ORDER_STRICT is not set\nCONFIG_ID_ORDER=\"sharded\"\n",
	};
	static const char *const overrides[] = {"ID_ORDER=sharded", "ID_ORDER=\"sharded\"",
						"CONFIG_ID_ORDER=\"sharded\"", "ID_ORDER_SHARDED=y"};
	struct config c;
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		file_taken(files[i], &c);
		assert_int_equal(c.id_order, ID_ORDER_SHARDED);
		config_done(&c);
	}
	for (size_t i = 0; i < sizeof overrides / sizeof *overrides; i++) {
		override_taken(overrides[i], &c);
		assert_int_equal(c.id_order, ID_ORDER_SHARDED);
		config_done(&c);
	}
}

static void forms_of_an_enumeration_that_disagree_are_refused(void **state)
{
	file_refused("CONFIG_ID_ORDER_SHARDED=y\nCONFIG_ID_ORDER=\"strict\"\n", 2, "contradicts");
	file_refused("CONFIG_ID_ORDER=\"strict\"\n\nCONFIG_ID_ORDER_SHARDED=y\n", 3, "contradicts");
	file_refused("CONFIG_ID_ORDER_SHARDED=y\nCONFIG_ID_ORDER_STRICT=y\n", 2, "something else in line 1");
	file_refused("# CONFIG_ID_ORDER_SHARDED is not set\nCONFIG_ID_ORDER=\"sharded\"\n", 1, "not set");
	file_refused("CONFIG_ID_ORDER_SHARDED=y\nCONFIG_ID_ORDER_SHARDED=y\n", 2, "line 1");
	/* Unsetting the one in force chooses nothing. */
	file_refused("\n# CONFIG_ID_ORDER_STRICT is not set\n", 2, "set CONFIG_ID_ORDER to the word you want");
	override_refused("ID_ORDER_STRICT=n", "set CONFIG_ID_ORDER to the word you want");
	override_refused("ID_ORDER=loose", "\"strict\" or \"sharded\", not loose");
	override_refused("LOG_LEVEL=", "\"debug\", \"info\", \"warn\" or \"error\", not an empty value");
	override_refused("ID_ORDER_SHARDED=1", "y or n");
}

static void is_not_set_means_no(void **state)
{
	struct config c;
	file_taken(
		"# CONFIG_NUMA is not set\n# CONFIG_LTO is what we call link-time optimisation\n# CONFIG_ is not all\n",
		&c);
	assert_false(c.numa);
	config_done(&c);
	file_refused("# CONFIG_SHARDS is not set\n", 1, "no yes-or-no option");
	file_refused("# CONFIG_NUMBER is not set\n", 1, "did you mean");
	file_refused("# CONFIG_NUMA is not set\nCONFIG_NUMA=y\n", 2, "line 1");
}

static void an_unknown_key_names_the_nearest(void **state)
{
	file_refused("CONFIG_SHARDS=1\nCONFIG_LISTN=\"x\"\n", 2, "did you mean CONFIG_LISTEN?");
	file_refused("CONFIG_listen=\"x\"\n", 1, "did you mean CONFIG_LISTEN?");
	file_refused("CONFIG_FROBNICATION_LEVEL=1\n", 1, "lists them all");
	override_refused("RECV_BUFFER=16", "did you mean CONFIG_RECV_BUFFERS?");
	override_refused("CONFIG_CONFIG_SHARDS=1", "there is no option CONFIG_CONFIG_SHARDS");
	override_refused("X=1", "lists them all");
}

static void a_second_value_in_one_file_is_refused(void **state)
{
	file_refused("CONFIG_SHARDS=1\nCONFIG_NUMA=y\nCONFIG_SHARDS=1\n", 3, "CONFIG_SHARDS was set before, in line 1");
	file_refused("CONFIG_LISTEN=\"a:1\"\nCONFIG_LISTEN=\"a:2\"\n", 2, "line 1");
}

static void numbers_are_whole_and_in_range(void **state)
{
	struct config c;
	override_taken("SHARDS=64", &c);
	assert_int_equal(c.shards, 64);
	config_done(&c);
	override_taken("WINDOW_MIN=0001", &c);
	assert_int_equal(c.window_min, 1);
	config_done(&c);
	static const char *const wrong[] = {"SHARDS=65",         "SHARDS=-1",
					    "SHARDS=1k",         "SHARDS=",
					    "SHARDS=0x4",        "SHARDS=\"4\"",
					    "SHARDS= 4",         "SHARDS=4.0",
					    "SHARDS=-",          "SHARDS=+4",
					    "SHARDS=y",          "SHARDS=4 ",
					    "SHARDS=4294967296", "SHARDS=99999999999999999999"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		override_refused(wrong[i], "a whole number from 0 to 64");
	file_refused("CONFIG_WINDOW_MIN=0\n", 1, "from 1 to 1000000000, not 0");
	override_refused("QUEUE_DEPTH=1", "from 2 to 65536, a power of two");
}

static void yes_and_no_are_letters(void **state)
{
	static const char *const wrong[] = {"NUMA=1", "NUMA=yes", "NUMA=Y", "NUMA=", "NUMA=\"y\"", "NUMA=m"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		override_refused(wrong[i], "CONFIG_NUMA takes y or n");
}

static void lines_that_are_no_assignments_are_refused(void **state)
{
	file_refused("hello\n", 1, "no assignment");
	file_refused("\n\nSHARDS=1\n", 3, "no assignment");
	file_refused("CONFIG_SHARDS\n", 1, "no assignment");
	file_refused("CONFIG_SHARDS 1\n", 1, "no assignment");
	file_refused("[section]\n", 1, "no assignment");
	override_refused("SHARDS", "no KEY=VALUE");
	override_refused("", "no KEY=VALUE");
	override_refused("=1", "no KEY=VALUE");
	override_refused("CONFIG_=1", "no KEY=VALUE");
}

static void bytes_that_could_forge_a_log_line_are_refused(void **state)
{
	struct config c;
	write_file("CONFIG_SHARDS=1\nCONFIG_CPUS=\"\0\"\n", 32);
	assert_int_equal(config_load(&c, path, NULL, 0, &why), -EINVAL);
	contains(why.text, ":2: there is a NUL byte");
	override_refused("DATA_DIR=/a\nb", "control character");
	override_refused("DATA_DIR=/a\x1b[2J", "control character");
}

static void what_is_too_long_is_refused(void **state)
{
	struct config c;
	size_t n = 8000;
	char *text = malloc(n + 1);
	memset(text, 'a', n);
	text[n] = '\0';
	memcpy(text, "DATA_DIR=", 9);
	assert_int_equal(config_load(&c, NULL, (const char *const *)&text, 1, &why), -EINVAL);
	assert_true(strlen(why.text) < CONFIG_ERROR_MAX);
	memset(text, 'K', n);
	text[7000] = '=';
	assert_int_equal(config_load(&c, NULL, (const char *const *)&text, 1, &why), -EINVAL);
	free(text);

	n = (1u << 20) + 1;
	text = malloc(n);
	memset(text, '\n', n);
	write_file(text, n);
	free(text);
	assert_int_equal(config_load(&c, path, NULL, 0, &why), -EFBIG);
	contains(why.text, path);
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
	struct config c;
	assert_int_equal(config_load(&c, "/nonexistent/ordinal.conf", NULL, 0, &why), -ENOENT);
	contains(why.text, "/nonexistent/ordinal.conf: No such file or directory");
	assert_int_equal(config_load(&c, "/", NULL, 0, &why), -EISDIR);
	contains(why.text, "Is a directory");
}

static void a_build_option_cannot_be_changed_by_a_file(void **state)
{
	struct config c;
	char text[64];
	snprintf(text, sizeof text, "CONFIG_DEBUG=%c\n", CONFIG_DEBUG ? 'y' : 'n');
	file_taken(text, &c);
	config_done(&c);
	snprintf(text, sizeof text, "CONFIG_DEBUG=%c\n", CONFIG_DEBUG ? 'n' : 'y');
	file_refused(text, 1, "in this build");
	override_refused(CONFIG_LTO ? "LTO=n" : "LTO=y", "in this build");
}

static void powers_of_two_are_checked(void **state)
{
	struct config c;
	override_refused("QUEUE_DEPTH=1000",
			 "CONFIG_QUEUE_DEPTH (-o) is 1000 and must be a power of two, such as 512 or 1024");
	override_refused("RECV_BUFFERS=32767", "such as 16384 or 32768");
	override_refused("QUEUE_DEPTH=65535", "such as 32768 or 65536");
	override_taken("QUEUE_DEPTH=65536", &c);
	assert_int_equal(c.queue_depth, 65536);
	config_done(&c);
}

static void one_limit_is_checked_against_another(void **state)
{
	struct config c;
	write_file("\nCONFIG_WINDOW_MIN=5000\n", 24);
	assert_int_equal(config_load(&c, path, LIST("COUNT_MAX=10", "WINDOW_MAX=4000"), &why), -EINVAL);
	contains(why.text, "CONFIG_WINDOW_MIN (/tmp/test_config.");
	contains(why.text, ":2) is 5000 and must not be above CONFIG_WINDOW_MAX (-o), which is 4000");
	override_refused("COUNT_MAX=5000000", "must not be above CONFIG_WINDOW_MAX (default), which is 4000000");
	override_refused("CQ_ENTRIES=512", "CONFIG_RING_ENTRIES (default) is 1024");
	override_refused("ASSEMBLY_CONN_MAX=4259840", "must be at least 8388608, the block of memory for a message of "
						      "CONFIG_MESSAGE_MAX (default), which is 4259840");
	override_refused("ASSEMBLY_MAX=200000000",
			 "must be at least three times CONFIG_ASSEMBLY_CONN_MAX (default), which is 67108864");
	override_refused("TAKE_PIPELINE=65536", "must be at least 64 times CONFIG_TAKE_PIPELINE");
	assert_int_equal(config_load(&c, NULL, LIST("HANDLER_BYTES_MAX=65536"), &why),
			 0); /* without threads it says nothing */
	config_done(&c);
	assert_int_equal(config_load(&c, NULL, LIST("HANDLER_THREADS=1", "HANDLER_BYTES_MAX=65536"), &why), -EINVAL);
	contains(why.text, "must be at least twice CONFIG_MESSAGE_MAX (default), which is 4259840");
	override_refused("CONN_QUEUE_MAX=16384",
			 "CONFIG_CONN_QUEUE_MAX (-o) is 16384 and must be at least 64 times CONFIG_NATIVE_INFLIGHT_MAX "
			 "(default), which is 4096");
	override_refused("STREAMS_MAX=10000", "must be at least 128 times CONFIG_STREAMS_MAX (-o), which is 10000");
	assert_int_equal(config_load(&c, NULL, LIST("CONN_QUEUE_MAX=16384", "NATIVE_INFLIGHT_MAX=256"), &why), 0);
	config_done(&c);
	assert_int_equal(config_load(&c, NULL, LIST("WINDOW_MIN=7", "WINDOW_MAX=7", "COUNT_MAX=7"), &why), 0);
	assert_int_equal(config_check(&c, &why), 0);
	c.window_min = 8;
	assert_int_equal(config_check(&c, &why), -EINVAL);
	contains(why.text, "CONFIG_WINDOW_MIN is 8");
	c.window_min = 7;
	config_done(&c);
}

static void listen_addresses_have_a_form(void **state)
{
	static const char *const good[] = {"LISTEN=127.0.0.1:0", "LISTEN=localhost:65535", "LISTEN=[::1]:1",
					   "LISTEN=127.8.9.1:50", "LISTEN=[::ffff:127.0.0.1]:9"};
	static const char *const bad[] = {"LISTEN=",
					  "LISTEN=:50051",
					  "LISTEN=127.0.0.1",
					  "LISTEN=127.0.0.1:",
					  "LISTEN=::1:50051",
					  "LISTEN=[::1]",
					  "LISTEN=[]:1",
					  "LISTEN=127.0.0.1:65536",
					  "LISTEN=localhost:x",
					  "LISTEN=localhost:-1",
					  "LISTEN=localhost: 1",
					  "LISTEN=[::1:5"};
	static const char *const far[] = {"LISTEN=0.0.0.0:1", "LISTEN=[::]:1", "LISTEN=10.0.0.1:1",
					  "LISTEN=example.com:1", "LISTEN=128.0.0.1:1"};
	struct config c;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		override_taken(good[i], &c);
		config_done(&c);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		override_refused(bad[i], "must be HOST:PORT");
	for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
		override_refused(far[i], "ALLOW_CLEARTEXT");
		assert_int_equal(config_load(&c, NULL, LIST(far[i], "ALLOW_CLEARTEXT=y"), &why), 0);
		config_done(&c);
	}
	char host[16];
	uint16_t port = 0;
	assert_int_equal(config_listen_split("[::1]:50051", host, sizeof host, &port), 0);
	assert_string_equal(host, "::1");
	assert_int_equal(port, 50051);
	assert_int_equal(config_listen_split("a-name-that-does-not-fit:1", host, sizeof host, &port), -EINVAL);
}

static void cpu_lists_have_a_form(void **state)
{
	static const char *const good[] = {"CPUS=0", "CPUS=0-3,8", "CPUS=3,1,2", "CPUS=1023", "CPUS=5-5"};
	static const char *const bad[] = {"CPUS=a",    "CPUS=1,",      "CPUS=,1",  "CPUS=1-",   "CPUS=-1",   "CPUS=3-1",
					  "CPUS=1024", "CPUS=0-99999", "CPUS=1 2", "CPUS=1--2", "CPUS=1-2-3"};
	struct config c;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		override_taken(good[i], &c);
		config_done(&c);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		override_refused(bad[i], "must be a list of CPU numbers");
	override_refused("CPUS=0-3,2", "names CPU 2 twice");
}

static void paths_and_targets_are_checked(void **state)
{
	struct config c;
	char socket[160] = "STATS_SOCKET=/";
	memset(socket + 14, 's', 106);
	override_taken(socket, &c); /* 107 bytes */
	config_done(&c);
	socket[120] = 's';
	override_refused(socket, "has 108 bytes");
	override_taken("STATS_SOCKET=", &c);
	config_done(&c);
	override_refused("DATA_DIR=", "must name a directory");
	override_refused("LOG_TARGET=file:relative", "file:/absolute/path");
	override_refused("LOG_TARGET=syslog", "must be \"auto\"");
	override_taken("LOG_TARGET=file:/tmp/x.log", &c);
	config_done(&c);
}

static char *dump(const struct config *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	assert_non_null(f);
	config_dump(c, f);
	fclose(f);
	return text;
}

static void a_dump_loads_back_the_same(void **state)
{
	struct config c, back;
	assert_int_equal(
		config_load(&c, NULL,
			    LIST("DATA_DIR=/a \"b\\", "NUMA=n", "ID_ORDER=sharded", "LOG_LEVEL=error", "SHARDS=3",
				 "CPUS=1,0", "FEED_DURABILITY=write", "WINDOW_MIN=77", "STATS_SOCKET="),
			    &why),
		0);
	char *text = dump(&c);
	contains(text, "CONFIG_ID_ORDER_SHARDED=y\nCONFIG_ID_ORDER=\"sharded\"\n");
	contains(text, "# CONFIG_ID_ORDER_STRICT is not set\n");
	contains(text, "# CONFIG_NUMA is not set\n");
	file_taken(text, &back);
	char *again = dump(&back);
	assert_string_equal(text, again);
	assert_string_equal(back.data_dir, "/a \"b\\");
	assert_int_equal(back.log_level, LOG_LEVEL_ERROR);
	assert_int_equal(back.feed_durability, FEED_DURABILITY_WRITE);
	assert_int_equal(back.window_min, 77);
	free(text);
	free(again);
	config_done(&c);
	config_done(&back);
}

static void count_change(void *ctx, const struct config_option *o)
{
	unsigned *n = ctx;
	n[o->live]++;
}

static void changes_say_what_may_change_live(void **state)
{
	struct config from, to;
	unsigned n[2] = {0, 0};
	assert_int_equal(config_load(&from, NULL, NULL, 0, &why), 0);
	assert_int_equal(
		config_load(&to, NULL, LIST("LOG_LEVEL=debug", "DATA_DIR=/x", "SHARDS=2", "IDLE_TIMEOUT_MS=9"), &why),
		0);
	assert_int_equal(config_changes(&from, &to, count_change, n), 4);
	assert_int_equal(n[true], 2);
	assert_int_equal(n[false], 2);
	assert_int_equal(config_changes(&to, &to, count_change, n), 0);
	config_done(&from);
	config_done(&to);
}

static void the_help_lists_every_runtime_option(void **state)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	config_help(f);
	fclose(f);
	for (unsigned i = 0; i < config_option_count; i++)
		if (!config_options[i].build)
			contains(text, config_options[i].key);
	free(text);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(defaults_are_those_of_kconfig),
		T(a_frame_has_to_fit),
		T(limits_that_cannot_hold_together_are_refused),
		T(defaults_yield_to_what_is_set),
		T(defaults_of_an_older_version_are_taken),
		T(every_default_is_in_its_range),
		T(a_file_sets_every_kind),
		T(an_empty_file_is_all_defaults),
		T(overrides_go_over_the_file_and_the_last_wins),
		T(an_override_may_leave_out_prefix_and_quotes),
		T(quotes_and_backslashes_are_as_kconfig_writes_them),
		T(an_enumeration_may_be_named_in_each_form),
		T(forms_of_an_enumeration_that_disagree_are_refused),
		T(is_not_set_means_no),
		T(an_unknown_key_names_the_nearest),
		T(a_second_value_in_one_file_is_refused),
		T(numbers_are_whole_and_in_range),
		T(yes_and_no_are_letters),
		T(lines_that_are_no_assignments_are_refused),
		T(bytes_that_could_forge_a_log_line_are_refused),
		T(what_is_too_long_is_refused),
		T(a_file_that_cannot_be_read_is_named),
		T(a_build_option_cannot_be_changed_by_a_file),
		T(powers_of_two_are_checked),
		T(one_limit_is_checked_against_another),
		T(listen_addresses_have_a_form),
		T(cpu_lists_have_a_form),
		T(paths_and_targets_are_checked),
		T(a_dump_loads_back_the_same),
		T(changes_say_what_may_change_live),
		T(the_help_lists_every_runtime_option),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
