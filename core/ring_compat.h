/* io_uring constants newer than Debian 12's liburing 2.3 headers. Including <linux/io_uring.h> beside <liburing.h> would give
 * an older set under the same guard, so what is missing is named here. Source: include/uapi/linux/io_uring.h of Linux 6.15. */
#ifndef ORDINAL_CORE_RING_COMPAT_H
#define ORDINAL_CORE_RING_COMPAT_H

#ifndef IORING_FEAT_MIN_TIMEOUT
#define IORING_FEAT_MIN_TIMEOUT (1U << 15) /* 6.12: getevents_arg.min_wait_usec, where 2.3 has `pad` */
#endif
#ifndef IORING_FEAT_NO_IOWAIT
#define IORING_FEAT_NO_IOWAIT (1U << 17) /* 6.15: waiting is not accounted as I/O wait */
#endif
#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif
#ifndef IORING_ASYNC_CANCEL_FD
#define IORING_ASYNC_CANCEL_ALL (1U << 0)
#define IORING_ASYNC_CANCEL_FD (1U << 1)
#endif

#endif
