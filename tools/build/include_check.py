#!/usr/bin/python3
"""Holds the direction of dependencies: core/base <- core <- queue <- rpc <- rpc/ordinald.c.

  include_check.py FILE...

Every quoted include is written from the tree's root. tests/, bench/ and tools/ may include anything and nothing includes them. Prints
file:line for each breach; exits 1 if there is one.
"""

import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')
# A room, and the rooms that it may include beside itself.
ROOMS = {
    "core/base": (),
    "core": ("core/base",),
    "queue": ("queue/family", "core", "core/base"),
    "queue/family": ("core/base",),
    "rpc/wire": ("core/base",),
    "rpc/client": ("rpc", "rpc/wire", "core", "core/base"),
    "rpc": ("rpc/wire", "queue", "queue/family", "core", "core/base"),
    "rpc/ordinald.c": ("rpc", "rpc/wire", "queue", "core", "core/base"),
}
FREE = ("tests", "bench", "tools")
# Headers that only one file may see.
ONLY = {
    "liburing.h": ("core/ring.c",),
    "linux/io_uring.h": (),
    "core/config_origin.h": ("core/config.c", "core/config_check.c"),
}
# Generated headers, and the rooms that they belong to.
GENERATED = {"config_gen.h": "core"}
PROTOBUF = ".pb-c.h"  # any file of rpc/, not of rpc/wire


def room_of(path):
    return max((r for r in ROOMS if path == r or path.startswith(r + "/")), key=len, default=path.split("/")[0])


def breach(path, quoted, header):
    """Why `path` may not include `header`, or None."""
    room = room_of(path)
    if header in ONLY and path not in ONLY[header] and room not in FREE:
        return f"only {' and '.join(ONLY[header]) or 'nobody'} may include {header}"
    if not quoted or room in FREE:
        return None
    if header.endswith(PROTOBUF):
        return None if room in ("rpc", "rpc/client", "rpc/ordinald.c") else f"{room} knows no protobuf-c message"
    if header in GENERATED:
        target = GENERATED[header]
    elif "/" not in header:
        return f'"{header}" is not written from the root of the tree'
    else:
        target = room_of(header)
    if target == room or target in ROOMS[room]:
        return None
    return f"{room} may not include {target} ({header})"


def main(paths):
    breaches = 0
    for path in paths:
        path = path.removeprefix("./")
        if room_of(path) not in ROOMS and room_of(path) not in FREE:
            print(f"{path}:1: belongs to no room that tools/build/include_check.py knows")
            breaches += 1
            continue
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                match = INCLUDE.match(line)
                why = match and breach(path, match[1] == '"', match[2])
                if why:
                    print(f"{path}:{number}: {why}")
                    breaches += 1
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
