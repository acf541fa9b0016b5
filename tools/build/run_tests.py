#!/usr/bin/python3
"""Runs what `make test` has built, and adds up the counts.

  run_tests.py --build DIR [--lint CHECK...] [--unit PROGRAM...] [--fuzz PROGRAM...] [--e2e DIRECTORY]

Lint: each CHECK is a target of the makefile and counts as one test. Unit: cmocka programs, several at a time, each within its time limit; every
cmocka test counts. Fuzz: each program replays its seeds and counts as one. E2e: pytest.
The last line is "N passed, N failed"; what was skipped, and the time it took, stand in the line before. Exits 1 if any failed.
"""

import argparse
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

LIMIT_S = 120
E2E_LIMIT_S = 1200
STEP = re.compile(r"^  [A-Z]+ +\S+$")  # of a quiet make
TAP_LINE = re.compile(r"^(not )?ok \d+(?: - (.*?))?( # SKIP.*)?$", re.M)
PARALLEL = len(os.sched_getaffinity(0))


class Counts:
    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def run(command, limit_s, env=None):
    """Runs a program in a process group of its own; (exit status or words, output, seconds). The group does not outlive it."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env=dict(os.environ, **(env or {})), start_new_session=True)
    status = None
    try:
        output, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        status = f"took longer than {limit_s} s"
    if status is None:
        code = child.returncode
        status = f"killed by {signal.Signals(-code).name}" if code < 0 else code
    return status, output.decode(errors="replace"), time.monotonic() - began


def report(name, counts, output, seconds, why=""):
    print(f"  {'FAIL' if counts.failed else 'ok':4}  {name:44} {counts}  ({seconds:.1f} s){why}", flush=True)
    if counts.failed:
        said = [line for line in output.rstrip().splitlines() if not STEP.match(line)]
        print("\n".join("        " + line for line in said[-200:]), flush=True)


def unit(program):
    status, output, seconds = run([program], LIMIT_S, {"CMOCKA_MESSAGE_OUTPUT": "TAP"})
    counts = Counts()
    for failed, _, skipped in TAP_LINE.findall(output):
        counts.add(Counts(failed=1) if failed else Counts(skipped=1) if skipped else Counts(passed=1))
    why = ""
    if status == 77 and not counts.failed:
        counts.skipped += 1
        why = f"  {output.strip().splitlines()[-1] if output.strip() else 'says that it cannot run here'}"
    elif status != 0 and not counts.failed:
        counts.failed = 1
        why = f"  {status if isinstance(status, str) else f'exit status {status}'}"
    elif status == 0 and not (counts.passed or counts.skipped):
        counts.failed = 1
        why = "  ran no test"
    return counts, output, seconds, why


def replay(program):
    name = os.path.basename(program)
    status, output, seconds = run([program, "tests/fuzz/seeds/" + name.removeprefix("fuzz_")], LIMIT_S)
    return Counts(passed=1) if status == 0 else Counts(failed=1), output, seconds, "" if status == 0 else f"  {status}"


def several(title, programs, one, total):
    if not programs:
        return
    print(f"{title}:", flush=True)
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        for program, (counts, output, seconds, why) in zip(programs, pool.map(one, programs)):
            report(program, counts, output, seconds, why)
            total.add(counts)


def lint(checks, total):
    if checks:
        print("lint:", flush=True)
    for check in checks:
        # A make of its own: the caller's job server is not open to us.
        env = {"MAKEFLAGS": "", "MAKELEVEL": "0", "MFLAGS": ""}
        status, output, seconds = run(["make", "--no-print-directory", "-k", f"-j{PARALLEL}", check], 900, env)
        counts = Counts(passed=1) if status == 0 else Counts(failed=1)
        report(check, counts, output, seconds)
        total.add(counts)


def e2e(directory, build, total):
    print("e2e:", flush=True)
    if not any(f.startswith("test_") and f.endswith(".py") for f in os.listdir(directory)):
        print(f"  there are no tests in {directory}")
        return
    xml_path = f"{build}/e2e.xml"
    if os.path.exists(xml_path):
        os.unlink(xml_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={xml_path}", directory]
    env = dict(os.environ, ORDINAL_BUILD=os.path.abspath(build), PYTHONDONTWRITEBYTECODE="1")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    try:
        status = child.wait(E2E_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        status = f"took longer than {E2E_LIMIT_S} s"
    counts = Counts()
    if os.path.exists(xml_path):
        for suite in xml.etree.ElementTree.parse(xml_path).getroot().iter("testsuite"):
            ran, failed, skipped = (int(suite.get(k, 0)) for k in ("tests", "failures", "skipped"))
            failed += int(suite.get("errors", 0))
            counts.add(Counts(max(ran - failed - skipped, 0), failed, skipped))
    if status != 0 and not counts.failed:
        print(f"  pytest: {status if isinstance(status, str) else f'exit status {status}'}")
        counts.failed = 1
    total.add(counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--lint", nargs="*", default=[])
    parser.add_argument("--unit", nargs="*", default=[])
    parser.add_argument("--fuzz", nargs="*", default=[])
    parser.add_argument("--e2e")
    args = parser.parse_args()
    began = time.monotonic()
    total = Counts()
    lint(args.lint, total)
    several("unit", args.unit, unit, total)
    several("fuzz targets over their seeds", args.fuzz, replay, total)
    if args.e2e:
        e2e(args.e2e, args.build, total)
    print(f"{total.skipped} skipped; took {time.monotonic() - began:.0f} s\n{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed or not (total.passed or total.skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
