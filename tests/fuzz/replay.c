/* Runs a fuzz target over files without a fuzzer: `fuzz_x FILE-OR-DIRECTORY…` gives every file (and every file in a given directory, in order of
 * name) to LLVMFuzzerTestOneInput, and prints how many there were. A target aborts when a property does not hold.
 * Exit 0: all held. 1: nothing to run, or something could not be read. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long inputs;

static int replay_file(const char *path, size_t size)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = malloc(size ? size : 1); /* exact, so that a sanitizer sees a read past the end */
	int r = -1;

	if (f && data && fread(data, 1, size, f) == size) {
		LLVMFuzzerTestOneInput(data, size);
		inputs++;
		r = 0;
	} else {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	}
	free(data);
	if (f)
		fclose(f);
	return r;
}

static int replay_path(const char *path);

static int replay_directory(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, NULL, alphasort), r = 0;

	if (n < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	for (int i = 0; i < n; i++) {
		char *child = NULL;
		if (entries[i]->d_name[0] != '.') {
			if (asprintf(&child, "%s/%s", path, entries[i]->d_name) < 0 || replay_path(child) < 0)
				r = -1;
			free(child);
		}
		free(entries[i]);
	}
	free(entries);
	return r;
}

static int replay_path(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	return S_ISDIR(st.st_mode) ? replay_directory(path) : replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
	int r = 0;

	for (int i = 1; i < argc; i++) {
		if (replay_path(argv[i]) < 0)
			r = 1;
	}
	if (inputs == 0) {
		fprintf(stderr, "usage: %s FILE-OR-DIRECTORY...\n", argv[0]);
		return 1;
	}
	printf("%s: %lu inputs\n", argv[0], inputs);
	return r;
}
