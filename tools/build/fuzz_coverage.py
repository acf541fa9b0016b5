#!/usr/bin/python3
"""Which lines of each parser of untrusted bytes the fuzz targets reach with their seeds and kept corpus.

  fuzz_coverage.py --build DIR --corpus DIR --seeds DIR [--lines] [--least PERCENT]

DIR/tests/fuzz/fuzz_* are programs built with clang's -fprofile-instr-generate -fcoverage-mapping (make fuzz-coverage does that). Each is run over its
seeds and its corpus, and what they reach together is counted by source file. Exit 1: a parser is below PERCENT (90), or a target failed.
--lines: also the lines that were not reached.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import shutil
import subprocess
import sys

# What parses bytes that somebody else wrote. `make fuzz-coverage` holds each to the same share.
PARSERS = {
    "first bytes, TLS records": ["rpc/session.c", "core/conn_tls.c"],
    "native framing": ["rpc/wire/native.h", "rpc/native_session.c"],
    "HTTP/2 session": ["rpc/wire/h2_frame.h", "rpc/h2_session.c", "rpc/h2_frames.c", "rpc/h2_stream.c", "rpc/h2_head.c", "rpc/h2_send.c"],
    "HPACK": ["rpc/wire/hpack.c"],
    "gRPC message framing": ["rpc/wire/grpc.c", "rpc/gzip.c"],
    "protobuf": ["rpc/wire/pb_scan.c", "rpc/wire/pb.c", "rpc/wire/pb_feed.c", "rpc/budget.c", "rpc/typed.c"],
    "metadata": ["rpc/metadata.c"],
    "configuration": ["core/config.c"],
    "access file": ["rpc/access.c"],
    "HTTP/1.1, stats socket": ["rpc/wire/http1.c", "rpc/statsock.c"],
    "journal and segments": ["core/journal_recover.c", "core/journal_format.c", "core/journal_manifest_read.c"],
    "logs of IDs and streams": ["queue/ids_record.h", "queue/stream_recover.c", "queue/frame.c"],
    "client": ["rpc/client/h2_client.c", "rpc/client/h2c_head.c", "rpc/client/h2c_output.c", "rpc/client/native_client.c", "rpc/client/channel.c"],
}


def tool(name):
    version = subprocess.run(["clang", "-dumpversion"], check=True, capture_output=True, text=True).stdout.split(".")[0]
    for candidate in (f"{name}-{version}", name):
        if shutil.which(candidate):
            return candidate
    sys.exit(f"{name} is missing: it comes with clang (package llvm)")


def replay(program, args):
    name = os.path.basename(program).removeprefix("fuzz_")
    profile = f"{args.build}/{name}.profraw"
    places = [d for d in (f"{args.seeds}/{name}", f"{args.corpus}/{name}") if os.path.isdir(d) and os.listdir(d)]
    if not places:
        return None, f"{name}: no seeds"
    done = subprocess.run([program, *places], env={**os.environ, "LLVM_PROFILE_FILE": profile}, capture_output=True, text=True)
    return profile, "" if done.returncode == 0 else f"{name}: {done.stderr.strip() or done.returncode}"


def missed(file):
    """The lines of a file's report (llvm-cov show) that never ran."""
    out = []
    for line in file.splitlines():
        number, _, rest = line.strip().partition("|")
        count, _, text = rest.partition("|")
        if count.strip() == "0":
            out.append(f"        {number:>5} {text.rstrip()}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--least", type=float, default=90)
    args = parser.parse_args()
    programs = sorted(p for p in glob.glob(f"{args.build}/tests/fuzz/fuzz_*") if "." not in os.path.basename(p))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda p: replay(p, args), programs))
    failures = [why for _, why in results if why]
    whole = f"{args.build}/fuzz.profdata"
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", "-o", whole, *(p for p, _ in results if p)], check=True)
    objects = [programs[0], *(x for p in programs[1:] for x in ("-object", p)), f"-instr-profile={whole}"]
    cov = tool("llvm-cov")
    report = json.loads(subprocess.run([cov, "export", "-summary-only", *objects], check=True, capture_output=True, text=True).stdout)
    lines = {os.path.relpath(f["filename"]): f["summary"]["lines"] for f in report["data"][0]["files"]}
    low = []
    print(f"{len(programs)} targets; lines reached / lines, of each parser:")
    for what, files in PARSERS.items():
        for path in files:
            got = lines.get(path)
            if not got:
                failures.append(f"{path} is in no target")
                continue
            percent = 100 * got["covered"] / got["count"]
            mark = ""
            if percent < args.least:
                mark = f"  below {args.least:g}%"
                low.append(f"{path} is below {args.least:g}%")
            print(f"  {what:24} {path:32} {got['covered']:5} / {got['count']:5}  {percent:5.1f}%{mark}", flush=True)
            if args.lines and got["covered"] < got["count"]:
                shown = subprocess.run([cov, "show", *objects, path], check=True, capture_output=True, text=True).stdout
                print("\n".join(missed(shown)))
    print(f"{'no parser is' if not low else 'some are'} below {args.least:g}%", flush=True)
    for why in failures + low:
        print(why, file=sys.stderr)
    return 1 if failures or low else 0


if __name__ == "__main__":
    sys.exit(main())
