"""Where threads are: what `ordinal stats topology` says is what the kernel says, and a place that the kernel refuses is said and costs nothing else."""

import json
import os

import pytest

import appliance
import native
from forbid import forbid

CPUS = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")


def affinity(daemon):
    """{thread's name: the CPUs it may run on}, from the kernel."""
    found = {}
    for tid in os.listdir(f"/proc/{daemon.pid}/task"):
        with open(f"/proc/{daemon.pid}/task/{tid}/comm", encoding="utf-8") as f:
            found[f.read().strip()] = os.sched_getaffinity(int(tid))
    return found


def topology(daemon):
    return json.loads(appliance.tool("stats", "topology", "--json", "--socket", daemon.stats_socket).stdout)


def check(daemon):
    """Every thread is where the topology says. Returns {name: CPU}."""
    told, real = topology(daemon), affinity(daemon)
    in_use = {c["cpu"] for c in told["cpus"]}
    assert told["cpus_allowed"] == len(CPUS) and in_use <= set(CPUS)
    for t in told["threads"]:
        assert real[t["name"]] == ({t["cpu"]} if t["cpu"] >= 0 else in_use), (t, real)
    return {t["name"]: t["cpu"] for t in told["threads"]}


@several
def test_producer_journal_and_log_keep_away_from_shards(daemon):
    d = daemon(SHARDS=1)
    at = check(d)
    assert at["shard/0"] >= 0
    for helper in ("producer", "journal", "log"):
        assert at[helper] >= 0 and at[helper] != at["shard/0"]


def test_without_spare_cpus_they_run_anywhere(daemon):
    d = daemon(SHARDS=len(CPUS))
    at = check(d)
    assert sorted(at[f"shard/{i}"] for i in range(len(CPUS))) == CPUS
    assert at["producer"] == at["journal"] == at["log"] == -1


@several
def test_cpus_that_are_not_named_stay_free(daemon):
    d = daemon(CPUS=CPUS[-1], SHARDS=1)
    assert check(d)["shard/0"] == CPUS[-1]
    assert [c["cpu"] for c in topology(d)["cpus"]] == [CPUS[-1]]


def test_the_drawing_names_every_thread_once(daemon):
    d = daemon(SHARDS=2)
    text = appliance.tool("stats", "topology", "--socket", d.stats_socket).stdout
    assert text.startswith("CPUs: ") and "allowed by affinity and cpuset" in text
    for name in ("shard/0", "shard/1", "producer", "journal", "log"):
        assert text.count(name) == 1, text


def test_places_that_the_kernel_refuses_are_said(daemon):
    """In a container that forbids both calls, threads run wherever they may, and the log and the topology say so."""
    d = daemon.prepare(SHARDS=1)
    d.wrapper = forbid(1, "sched_setaffinity", "set_mempolicy")
    d.start()
    said = d.log_since_start()
    assert "cannot pin shard 0 to CPU" in said and "Operation not permitted" in said
    if os.path.exists("/sys/devices/system/node/online"):
        assert "cannot place the memory of shard 0 on node" in said
    if len(CPUS) > 1:
        for helper in ("producer", "journal", "log"):
            assert f"cannot pin the {helper} thread to CPU" in said
    assert set(check(d).values()) == {-1}
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


def test_the_topology_has_no_metrics(server):
    done = appliance.tool("stats", "topology", "--metrics", "--socket", server.stats_socket, check=False)
    assert done.returncode == 2 and "--json" in done.stderr
