"""System calls of a running daemon that fail on demand: tests/e2e/fault.c, loaded before the C library."""

import os
import subprocess

import pytest

import appliance


class Faults:
    def __init__(self, directory):
        if appliance.is_sanitized():
            pytest.skip("a sanitizer wants to be the first library")
        self.rules, self.library = directory / "faults", directory / "fault.so"
        source = os.path.join(appliance.ROOT, "tests", "e2e", "fault.c")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True)

    def attach(self, d):
        """Before the daemon starts."""
        d.environment = {**d.environment, "LD_PRELOAD": self.library, "ORDINAL_FAULTS": self.rules}

    def set(self, *rules):
        """Each rule: (call, errno, part of the path[, bytes of a write, at least]). None: nothing fails any more."""
        text = "".join(f"{call} {error} {part} {least[0] if least else 0}\n" for call, error, part, *least in rules)
        fresh = self.rules.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.rules)

    def done(self):
        """What has failed so far."""
        path = self.rules.with_name(self.rules.name + ".done")
        return path.read_text().splitlines() if path.exists() else []
