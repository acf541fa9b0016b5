/* The charts: a CSV and a gnuplot script into the output directory, and gnuplot run on them.
 *
 * Bars lie on their sides, one queue a line in the order of the table, so that long names can be read. gnuplot gets
 * the script on a file of its own beside the charts, so that anyone can change and run it again.
 */
#include "report.h"

#include "core/base/check.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_CAP 512

static int make_dirs(const char *dir)
{
	char path[PATH_CAP];
	size_t n = strlen(dir);

	if (n == 0 || n >= sizeof path)
		return -ENAMETOOLONG;
	memcpy(path, dir, n + 1);
	for (size_t i = 1; i <= n; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		path[i] = '\0';
		if (mkdir(path, 0777) != 0 && errno != EEXIST)
			return -errno;
		if (i < n)
			path[i] = '/';
	}
	return 0;
}

static void script_common(FILE *f, unsigned rows, const char *title, const char *xlabel, const char *file)
{
	fprintf(f,
		"\nreset\n"
		"set terminal svg size 900,%u font 'sans-serif,12' background '#ffffff'\n"
		"set output '%s'\n"
		"set datafile separator ','\n"
		"set title \"%s\" noenhanced\n"
		"set xlabel \"%s\"\n"
		"set yrange [%u.5:-0.5]\n"
		"set ytics noenhanced scale 0\n"
		"set grid x lc rgb '#dddddd'\n"
		"set border 3 lc rgb '#444444'\n"
		"set tics nomirror textcolor rgb '#222222'\n"
		"set style fill solid noborder\n"
		"set lmargin 26\nset rmargin 9\n",
		rows * 19 + 130, file, title, xlabel, rows - 1);
}

/* `csv` and the SVG files are named without the directory: gnuplot runs in it. */
static void script(FILE *f, const struct bench_report *r, const char *csv, const char *prefix)
{
	const struct bench_opts *o = r->opts;
	const char *take = o->prefill ? "prefilled" : "flow";
	char title[200], file[80];

	snprintf(title, sizeof title, "Items per second (%s, %u producers, %u consumers, batch %u)", take,
		 o->prefill ? 0 : o->producers, o->consumers, o->batch);
	snprintf(file, sizeof file, "%sthroughput.svg", prefix);
	script_common(f, r->n, title, "million items a second; the line: slowest to fastest run", file);
	fprintf(f,
		"set xrange [0:*]\nset key off\n"
		"plot '%s' every ::1 using ($7/2e6):0:(0):($7/1e6):($0-0.36):($0+0.36):ytic(1) with boxxyerror lc rgb '#3465a4', "
		"'' every ::1 using ($7/1e6):0:($27/1e6):($28/1e6) with xerrorbars pt 0 lc rgb '#222222', "
		"'' every ::1 using ($28/1e6):0:(gprintf(' %%.2f', $7/1e6)) with labels left font ',10'\n",
		csv);

	snprintf(title, sizeof title, "Latency of taking (%s): p50, p99, p99.9, max", take);
	snprintf(file, sizeof file, "%stail.svg", prefix);
	script_common(f, r->n, title, "nanoseconds, logarithmic", file);
	fprintf(f,
		"set logscale x\nset format x '10^{%%L}'\nset key outside top horizontal\n"
		"plot '%s' every ::1 using ($23+1):0:ytic(1) with points pt 7 ps 0.7 lc rgb '#4e9a06' title 'p50', "
		"'' every ::1 using ($24+1):0 with points pt 9 ps 0.8 lc rgb '#c4a000' title 'p99', "
		"'' every ::1 using ($25+1):0 with points pt 5 ps 0.7 lc rgb '#ce5c00' title 'p99.9', "
		"'' every ::1 using ($26+1):0 with points pt 2 ps 0.7 lc rgb '#a40000' title 'max'\n",
		csv);

	snprintf(title, sizeof title, "Fairness between consumers (%s)", take);
	snprintf(file, sizeof file, "%sfairness.svg", prefix);
	script_common(f, r->n, title, "1 is even", file);
	fprintf(f,
		"set xrange [0:1.05]\nset key outside top horizontal\n"
		"plot '%s' every ::1 using ($13/2):0:(0):13:($0-0.38):($0):ytic(1) with boxxyerror lc rgb '#75507b' title \"Jain's index\", "
		"'' every ::1 using ($14/2):0:(0):14:($0):($0+0.38) with boxxyerror lc rgb '#edd400' title \"slowest consumer's part of an even share\"\n",
		csv);
}

/* 0, or -ENOENT when there is no gnuplot, or -EIO when it failed. */
static int run_gnuplot(const char *dir, const char *name)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child < 0)
		return -errno;
	if (child == 0) {
		if (chdir(dir) == 0)
			execlp("gnuplot", "gnuplot", name, (char *)NULL);
		_exit(errno == ENOENT ? 127 : 126);
	}
	if (waitpid(child, &status, 0) != child)
		return -errno;
	if (!WIFEXITED(status))
		return -EIO;
	return WEXITSTATUS(status) == 0 ? 0 : WEXITSTATUS(status) == 127 ? -ENOENT : -EIO;
}

static FILE *open_in(const char *dir, const char *name)
{
	char path[PATH_CAP + 80];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return fopen(path, "w");
}

int charts_write(const char *dir, const struct bench_report *r)
{
	const char *prefix = r->opts->prefill ? "prefill-" : "";
	char csv[40], gp[40];
	FILE *f;
	int err = make_dirs(dir);

	if (err != 0)
		return err;
	snprintf(csv, sizeof csv, "%squeues.csv", prefix);
	snprintf(gp, sizeof gp, "%squeues.gp", prefix);
	f = open_in(dir, csv);
	if (f == NULL)
		return -errno;
	report_csv(f, r);
	if (fclose(f) != 0)
		return -errno;
	f = open_in(dir, gp);
	if (f == NULL)
		return -errno;
	script(f, r, csv, prefix);
	if (fclose(f) != 0)
		return -errno;
	err = run_gnuplot(dir, gp);
	if (err == 0)
		fprintf(stderr, "charts: %s/%s{throughput,tail,fairness}.svg; figures: %s/%s\n", dir, prefix, dir, csv);
	return err;
}
