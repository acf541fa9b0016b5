/* Which way to durability is fastest on this disk: pwrite and fdatasync, one pwritev2 with RWF_DSYNC, or O_DIRECT |
 * O_DSYNC.
 *
 * A scratch file is filled and synced, then each way gets PER_METHOD_NS of small writes to it, one after another as a
 * journal writes them. A way that is not there (a file system without O_DIRECT, a kernel without RWF_DSYNC) is out; any
 * other error of it is the disk's, and refuses the start. Another way must beat fdatasync by a twentieth to be taken. A
 * disk on which a single sync takes longer than that is not measured further: there it makes no difference.
 *
 * Runs in the main thread, in journal_open.
 */
#include "core/journal_internal.h"

#include "core/base/clock.h"

#include <errno.h>
#include <string.h>

#define PROBE_FILE ".probe"
#define PROBE_BYTES (64 * JF_BLOCK)
#define PER_METHOD_NS (12 * NS_PER_MS)
#define TRIES_MAX 200u

const char *journal_method_name(enum journal_method m)
{
	switch (m) {
	case JOURNAL_DSYNC:
		return "dsync";
	case JOURNAL_DIRECT:
		return "direct";
	case JOURNAL_AUTO:
	case JOURNAL_FDATASYNC:
		break;
	}
	return "fdatasync";
}

static int one(struct jio *io, int fd, enum journal_method m, const uint8_t *block, uint32_t i)
{
	uint64_t small = 256 * (uint64_t)(i % (PROBE_BYTES / 256)); /* about a record */
	int err;

	switch (m) {
	case JOURNAL_DIRECT:
		return jio_write(io, fd, PROBE_FILE, block, JF_BLOCK, small & ~(uint64_t)(JF_BLOCK - 1), 0);
	case JOURNAL_DSYNC:
		return jio_write(io, fd, PROBE_FILE, block, 256, small, JD_DSYNC);
	case JOURNAL_AUTO:
	case JOURNAL_FDATASYNC:
		break;
	}
	err = jio_write(io, fd, PROBE_FILE, block, 256, small, 0);
	return err != 0 ? err : jio_sync(io, fd, PROBE_FILE);
}

/* Mean time of one, or -errno when this way does not work here. */
static int measure(struct jio *io, enum journal_method m, const uint8_t *block, uint64_t *ret_ns)
{
	uint64_t begin, now;
	uint32_t n = 0;
	int fd = jio_open(io, PROBE_FILE, m == JOURNAL_DIRECT ? JD_DIRECT : 0);
	int err;

	if (fd < 0)
		return fd;
	begin = clock_mono_ns();
	do {
		err = one(io, fd, m, block, n++);
		now = clock_mono_ns();
	} while (err == 0 && n < TRIES_MAX && now - begin < PER_METHOD_NS);
	jio_close(io, &fd);
	*ret_ns = (now - begin) / n;
	return err;
}

int journal_probe(struct jio *io, enum journal_method *ret)
{
	static uint8_t block[JF_BLOCK] __attribute__((aligned(4096)));
	uint64_t best, ns;
	int fd = jio_open(io, PROBE_FILE, JD_CREATE);
	int err = fd < 0 ? fd : 0;

	for (uint32_t at = 0; at < PROBE_BYTES && err == 0; at += JF_BLOCK)
		err = jio_write(io, fd, PROBE_FILE, block, sizeof block, at, 0);
	if (err == 0)
		err = jio_sync(io, fd, PROBE_FILE);
	jio_close(io, &fd);
	if (err == 0)
		err = measure(io, JOURNAL_FDATASYNC, block, &best);
	if (err != 0)
		return err;
	*ret = JOURNAL_FDATASYNC;
	if (best < PER_METHOD_NS) {
		best -= best / 20;
		for (enum journal_method m = JOURNAL_DSYNC; m <= JOURNAL_DIRECT; m++) {
			err = measure(io, m, block, &ns);
			if (err != 0 && err != -EINVAL && err != -EOPNOTSUPP && err != -ENOSYS)
				return err;
			if (err != 0 || ns >= best)
				continue;
			best = ns;
			*ret = m;
		}
	}
	return jio_unlink(io, PROBE_FILE);
}
