"""check.py CONSOLE: judges what tests/numa/init has printed.

Every shard is pinned to a CPU of its own, and the daemon's topology says so and names its node; each large area of anonymous memory (receive buffers, arenas, queues; 500 pages and more) is on one node, and both
nodes have such areas; IDs were handed out under load, none twice. Which shard an area belongs to is not known here.
"""

import json
import re
import sys


def main(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read().replace("\r", "\n")
    faults = []

    def expect(condition, what):
        print(f"{'ok   ' if condition else 'FAIL '} {what}")
        if not condition:
            faults.append(what)

    kernel = re.search(r"==== kernel (\S+)", text)
    expect(kernel and kernel[1].startswith("6.1."), f"the kernel is {kernel[1] if kernel else 'unknown'}")
    shards = {int(n): cpus for n, cpus in re.findall(r"==== thread shard/(\d+) cpus (\S+)", text)}
    expect(shards == {0: "0", 1: "1", 2: "2", 3: "3"}, f"each shard is pinned to a CPU of its own: {shards}")
    told = re.search(r'^\{"cpus_online".*\}', text, re.M)
    told = json.loads(told[0]) if told else {"cpus": [], "threads": []}
    expect({c["cpu"]: c["node"] for c in told["cpus"]} == {0: 0, 1: 0, 2: 1, 3: 1}, "the topology knows the nodes of the CPUs")
    places = [(t["cpu"], t["memory_node"]) for t in told["threads"] if t["name"].startswith("shard/")]
    expect(places == [(0, 0), (1, 0), (2, 1), (3, 1)], f"each shard's memory is asked for on the node of its CPU: {places}")
    report = re.search(r"^\{\"calls_per_second.*\}", text, re.M)
    load = json.loads(report[0]) if report else {}
    check = load.get("check", {})
    expect(load.get("errors") == 0 and check.get("ok") and check.get("received", 0) > 0,
           f"{check.get('received')} IDs under load, {check.get('repeated')} repeated, {check.get('disordered')} disordered")
    by_node = [0, 0]
    split = []
    for line in re.findall(r"^[0-9a-f]+ .*anon=\d+.*$", text[text.find("==== pages"):], re.M):
        pages = [int(m[1]) if (m := re.search(rf" N{n}=(\d+)", line)) else 0 for n in (0, 1)]
        if sum(pages) >= 500:
            by_node[pages[1] > pages[0]] += max(pages)
            if max(pages) < 0.95 * sum(pages):
                split.append(line)
    expect(min(by_node) >= 1000, f"large areas: {by_node[0]} pages on node 0, {by_node[1]} on node 1")
    expect(not split, f"each of them is on one node {split}")
    expect("==== stopped with 0" in text, "it stopped cleanly")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
