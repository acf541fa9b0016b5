"""What a power cut may leave of a data directory: tests/e2e/crash_recorder.c records every change
that a running daemon makes, and this builds, for a moment between two of them, what could be on the
disk then.

What was synced is there. Of what was not, every sector of 512 bytes is as it was at some moment
since the last sync, each by itself; a file that has grown may have its new length without its
bytes; changes of names may be there or not, up to some moment or each by itself. Nothing else is
assumed of a file system but that a rename is atomic.
"""

import os
import struct
import subprocess

import pytest

import appliance

SECTOR = 512
HEAD = struct.Struct("=BBHIQQQQ")
CREATE, WRITE, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, MKDIR, RMDIR, TRUNCATE = range(1, 10)
DURABLE = 1
DIRECTORY = "directory"


class Recorder:
    """Attached to a daemon before it starts."""

    def __init__(self, directory):
        if appliance.is_sanitized():
            pytest.skip("a sanitizer wants to be the first library")
        self.directory, self.library, self.count = directory, directory / "crash_recorder.so", 0
        directory.mkdir(parents=True, exist_ok=True)
        source = os.path.join(appliance.ROOT, "tests", "e2e", "crash_recorder.c")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True)

    def attach(self, d):
        """Returns the file that the daemon's next life is recorded in."""
        self.count += 1
        record = self.directory / f"record-{self.count}"
        d.environment = {**d.environment, "LD_PRELOAD": self.library, "ORDINAL_RECORD_ROOT": d.data, "ORDINAL_RECORD_TO": record}
        return record

    def kill(self, d):
        """kill -9, but not between a change and its record. Something has to be changing."""
        (self.directory / f"record-{self.count}.end").touch()
        d.process.wait(appliance.PATIENCE_S)

    @staticmethod
    def detach(d):
        d.environment = {k: v for k, v in d.environment.items() if k != "LD_PRELOAD" and not k.startswith("ORDINAL_RECORD")}


class Event:
    __slots__ = ("kind", "flags", "time", "inode", "offset", "path", "data")

    def __init__(self, kind, flags, time, inode, offset, path, data):
        self.kind, self.flags, self.time, self.inode, self.offset, self.path, self.data = kind, flags, time, inode, offset, path, data


def read(path):
    """The events of a record, in their order. The last one may be cut short, by a kill."""
    events, at = [], 0
    with open(path, "rb") as f:
        raw = f.read()
    while at + HEAD.size <= len(raw):
        kind, flags, path_n, _, time, inode, offset, n = HEAD.unpack_from(raw, at)
        at += HEAD.size
        if at + path_n + n > len(raw):
            break
        name = raw[at:at + path_n].decode()
        at += path_n
        events.append(Event(kind, flags, time, inode, offset, name, raw[at:at + n]))
        at += n
    return events


class File:
    """`now` is what the process sees, `safe` is on the disk, `writes` are those in between:
    (number, offset, bytes)."""

    def __init__(self, content=b""):
        self.now, self.safe, self.writes = bytearray(content), bytearray(content), []

    @staticmethod
    def put(content, offset, data):
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset:offset + len(data)] = data

    def write(self, number, offset, data, durable):
        self.put(self.now, offset, data)
        if not durable:
            self.writes.append((number, offset, data))
            return
        self.put(self.safe, offset, data)
        left = []
        for k, at, old in self.writes:  # what is older and was written over cannot come any more
            if at < offset:
                left.append((k, at, old[:offset - at]))
            if at + len(old) > offset + len(data):
                cut = max(offset + len(data) - at, 0)
                left.append((k, at + cut, old[cut:]))
        self.writes = left

    def sync(self, before):
        for k, at, data in self.writes:
            if k < before:
                self.put(self.safe, at, data)
        self.writes = [w for w in self.writes if w[0] >= before]

    def crashed(self, rng, how):
        """One content that may be there. `how`: none of the unsynced bytes, all of them, or any
        sectors at any moment."""
        if how == "none" or not self.writes:
            return bytearray(self.safe)
        if how == "all":
            return bytearray(self.now)
        content = bytearray(self.safe)
        sectors = {}
        for _, at, data in self.writes:
            for sector in range(at // SECTOR, (at + len(data) - 1) // SECTOR + 1):
                begin, end = max(at, sector * SECTOR), min(at + len(data), (sector + 1) * SECTOR)
                sectors.setdefault(sector, []).append((begin, data[begin - at:end - at]))
        share = rng.random()
        for pieces in sectors.values():
            if rng.random() < share:
                for begin, piece in pieces[:rng.randint(1, len(pieces))]:
                    self.put(content, begin, piece)
        if len(content) < len(self.now) and rng.random() < 0.3:
            content.extend(bytes(len(self.now) - len(content)))
        return content


class Disk:
    def __init__(self, state=None):
        """Begins with what build() gave, all of it on the disk."""
        self.files, self.names, self.safe, self.changes, self.syncs = {}, {}, {}, [], {}
        self.of_inode, self.number = {}, 0
        for path, content in (state or {}).items():
            self.names[path] = self.safe[path] = DIRECTORY if content is DIRECTORY else File(content)

    def adopt(self, root):
        """Tells which inodes the files of the beginning have, once they are at `root`."""
        for path, what in self.names.items():
            self.of_inode[os.stat(os.path.join(root, path)).st_ino] = path if what is DIRECTORY else what
        self.of_inode[os.stat(root).st_ino] = ""

    @staticmethod
    def _change(names, gone, come, what):
        if gone is not None:
            names.pop(gone, None)
        if come is not None:
            names[come] = what

    def _rename(self, gone, come, what):
        self._change(self.names, gone, come, what)
        self.changes.append((self.number, gone, come, what))

    def apply(self, e):
        self.number += 1
        if e.kind == CREATE:
            f = self.of_inode[e.inode] = File()
            self._rename(None, e.path, f)
        elif e.kind == MKDIR:
            self.of_inode[e.inode] = e.path
            self._rename(None, e.path, DIRECTORY)
        elif e.kind == WRITE:
            self.of_inode[e.inode].write(self.number, e.offset, e.data, e.flags & DURABLE)
        elif e.kind == TRUNCATE:
            raise AssertionError("the journal cuts no file")
        elif e.kind == SYNC_BEGIN:
            self.syncs[e.inode, e.offset] = self.number
        elif e.kind == SYNC_END:
            self._synced(e.inode, self.syncs.pop((e.inode, e.offset)))
        elif e.kind == RENAME:
            gone, come = e.path.split("\0")
            self._rename(gone, come, self.names[gone])
        else:
            self._rename(e.path, None, None)

    def _synced(self, inode, before):
        what = self.of_inode.get(inode, "")  # only the data directory itself was there before
        if isinstance(what, File):
            what.sync(before)
            return
        left = []
        for change in self.changes:
            number, gone, come, thing = change
            inside = any(p is not None and os.path.dirname(p) == what for p in (gone, come))
            if number < before and inside:
                self._change(self.safe, gone, come, thing)
            else:
                left.append(change)
        self.changes = left

    def build(self, rng):
        """One state that a power cut now may leave: content by path, DIRECTORY for a directory."""
        names = dict(self.safe)
        how = rng.choice(("none", "all", "some", "some", "some"))
        order = rng.choice(("none", "all", "first", "any"))
        first = rng.randint(0, len(self.changes))
        for i, (_, gone, come, what) in enumerate(self.changes):
            if order == "all" or (order == "first" and i < first) or (order == "any" and rng.random() < 0.5):
                self._change(names, gone, come, what)
        state, contents = {}, {}
        for path in sorted(names):
            parent = os.path.dirname(path)
            if parent and names.get(parent) is not DIRECTORY:
                continue
            what = names[path]
            if what is DIRECTORY:
                state[path] = DIRECTORY
            else:
                if id(what) not in contents:
                    contents[id(what)] = what.crashed(rng, how)
                state[path] = contents[id(what)]
        return state

    def check_against(self, root):
        """What was recorded is all that was done: the files are what the process saw."""
        found = {}
        for top, dirs, files in os.walk(root):
            for name in dirs + files:
                path = os.path.join(top, name)
                found[os.path.relpath(path, root)] = DIRECTORY if name in dirs else None
        assert set(found) == set(self.names), set(found) ^ set(self.names)
        for path, what in self.names.items():
            if what is not DIRECTORY:
                with open(os.path.join(root, path), "rb") as f:
                    assert f.read() == bytes(what.now), f"{path} was changed in a way that was not recorded"


def write_out(state, root):
    """Makes a directory of it. Zeros are left as holes."""
    os.makedirs(root, mode=0o700)
    for path in sorted(state):
        content = state[path]
        if content is DIRECTORY:
            os.mkdir(os.path.join(root, path), 0o700)
            continue
        with open(os.path.join(root, path), "wb") as f:
            for at in range(0, len(content), 4096):
                piece = content[at:at + 4096]
                if any(piece):
                    f.seek(at)
                    f.write(piece)
            f.truncate(len(content))
