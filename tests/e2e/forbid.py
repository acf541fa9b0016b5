"""System calls that the kernel refuses, as it does in containers: a command to put in front of a daemon (Daemon.wrapper)."""

import platform
import sys

SYSCALLS = {"io_uring_setup": (425, 425), "sched_setaffinity": (203, 122), "set_mempolicy": (238, 237)}  # on x86_64, on aarch64

# argv: the error, the numbers separated by commas, the command, which it becomes
BECOME = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0)]
for number in sys.argv[2].split(","):
    code += [(0x15, 0, 1, int(number)), (0x06, 0, 0, 0x00050000 | int(sys.argv[1]))]
code.append((0x06, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filters, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[3], sys.argv[3:])
"""


def forbid(error, *names):
    """A wrapper under which these system calls fail with an errno."""
    numbers = [str(SYSCALLS[name][platform.machine() == "aarch64"]) for name in names]
    return [sys.executable, "-c", BECOME, str(error), ",".join(numbers)]
