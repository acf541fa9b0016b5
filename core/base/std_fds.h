/* Descriptors 0, 1 and 2, which whoever starts a program may have left closed: the next file that it opens would become its standard output. Main thread. */
#ifndef ORDINAL_CORE_BASE_STD_FDS_H
#define ORDINAL_CORE_BASE_STD_FDS_H

/* Where one of them is closed, /dev/null takes its place; before anything else is opened. SERVER: reads end at once, and writes vanish. PROGRAM: reads and
 * writes fail with EBADF, as they would have. Ends the process when it cannot be done. */
enum std_fds_kind { STD_FDS_SERVER, STD_FDS_PROGRAM };
void std_fds_open(enum std_fds_kind kind);

/* The end of a program: `code`, or, when standard output or error could not be written, `failed` with a sentence on standard error. Without one for a
 * reader who has left (EPIPE): he knows. */
int std_fds_close(const char *program, int code, int failed);

#endif
