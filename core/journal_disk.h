/* The journal's only way to the file system: a table of functions, so that tests put a simulated disk in its place.
 *
 * Paths are relative to the data directory ("" is the directory itself). Every function returns 0 or a count, or
 * -errno. None retries anything. Any thread may call them, each file handle being one thread's at a time (reads at an
 * offset: any).
 * Source: open(2), pwritev2(2), fdatasync(2), flock(2).
 */
#ifndef ORDINAL_CORE_JOURNAL_DISK_H
#define ORDINAL_CORE_JOURNAL_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	JD_CREATE = 1, /* open: make the file if it is missing */
	JD_READ = 2,   /* open: for reading only */
	JD_DIRECT = 4, /* open: O_DIRECT | O_DSYNC; buffers, sizes and offsets are then multiples of 4096 */
	JD_DSYNC = 8,  /* pwrite: durable when it returns */
};

/* What tells one file from another, and how long it is. */
struct jd_id {
	uint64_t dev, ino, size;
};

struct journal_disk {
	void *ctx;
	const char *root; /* for people: the directory's name */
	int (*open)(void *ctx, const char *path,
		    unsigned flags); /* a handle >= 0; with the real disk a file descriptor */
	void (*close)(void *ctx, int fd);
	int64_t (*size)(void *ctx, int fd);
	int (*id)(void *ctx, int fd, struct jd_id *ret);
	int (*id_at)(void *ctx, const char *path, struct jd_id *ret); /* of the file that has this name now */
	ssize_t (*pread)(void *ctx, int fd, void *p, size_t n, uint64_t offset);
	ssize_t (*pwrite)(void *ctx, int fd, const void *p, size_t n, uint64_t offset, unsigned flags);
	int (*sync)(void *ctx, int fd); /* the file's bytes and size are durable; not its name */
	/* The names in it are durable. *ret_tried: the sync itself was tried (the directory could be opened). */
	int (*sync_dir)(void *ctx, const char *path, bool *ret_tried);
	int (*mkdir)(void *ctx, const char *path); /* -EEXIST when it is there */
	int (*rename)(void *ctx, const char *from, const char *to);
	int (*unlink)(void *ctx, const char *path);
	int (*rmdir)(void *ctx, const char *path); /* an empty directory */
	/* Calls `each` for every name but "." and "..", in any order. */
	int (*list)(void *ctx, const char *path, void (*each)(void *arg, const char *name, bool is_dir), void *arg);
	/* n bytes that nobody can guess: a new journal's id. */
	int (*random)(void *ctx, void *p, size_t n);
	/* A number of this run of the machine, never 0: while it is the same, what was written is
	 * there, synced or not. */
	uint64_t (*boot)(void *ctx);
	/* Takes a lock that ends with the process, trying for timeout_ns: exclusive, in a file that is made if it is missing;
	 * or shared, in one that is there. A handle to close, or -EBUSY. */
	int (*lock)(void *ctx, const char *path, uint64_t timeout_ns, bool shared);
};

/* The real one. `make`: makes the directory (0700; missing parents 0755) and makes its name durable. Main thread. */
int journal_disk_open(const char *dir, bool make, struct journal_disk *ret);
void journal_disk_close(struct journal_disk *d);

/* A caller's view of a disk that remembers in words what failed. One thread's at a time. */
struct jio {
	const struct journal_disk *d;
	bool sync_failed; /* the failure was a sync's: what was written before it may be gone, whatever reads show */
	bool cut_short;   /* the failure was a write that took fewer bytes than it was given, without an error */
	char why[640];    /* "fdatasync /var/lib/ordinal/x/0000000000000001: No space left on device" */
};

/* Wrappers that fill io->why; 0 or -errno. */
int jio_open(struct jio *io, const char *path, unsigned flags); /* a handle */
void jio_close(struct jio *io, int *fd);                        /* harmless with *fd < 0; sets it to -1 */
int64_t jio_size(struct jio *io, int fd, const char *path);
int jio_id(struct jio *io, int fd, const char *path, struct jd_id *ret);
int jio_id_at(struct jio *io, const char *path, struct jd_id *ret);
/* All n bytes or an error. Where a write takes fewer bytes, the rest is written once more, which says why; a second short
 * write is -EIO. */
int jio_write(struct jio *io, int fd, const char *path, const void *p, size_t n, uint64_t offset, unsigned flags);
/* Up to n bytes, fewer only at the end of the file. */
ssize_t jio_read(struct jio *io, int fd, const char *path, void *p, size_t n, uint64_t offset);
int jio_sync(struct jio *io, int fd, const char *path);
int jio_sync_dir(struct jio *io, const char *path);
int jio_mkdir(struct jio *io, const char *path, bool *ret_made); /* 0 as well when it is there */
int jio_rename(struct jio *io, const char *from, const char *to);
int jio_unlink(struct jio *io, const char *path); /* 0 as well when it is not there */
int jio_rmdir(struct jio *io, const char *path);
int jio_list(struct jio *io, const char *path, void (*each)(void *arg, const char *name, bool is_dir), void *arg);
/* Whether the failure `err` is a want of room, descriptors or memory, which may pass: it was no sync's, and nothing was
 * written wrongly. */
bool jio_is_shortage(const struct jio *io, int err);
/* Sets io->why to "ROOT/PATH: ..." and returns err. */
int jio_fail(struct jio *io, int err, const char *path, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
