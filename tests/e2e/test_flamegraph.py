"""tools/flamegraph: stacks that perf has printed become one SVG by thread; what stands in its way is said in a sentence."""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

import appliance

FLAMEGRAPH = os.path.join(appliance.ROOT, "tools", "flamegraph")
SVG = "{http://www.w3.org/2000/svg}"


def sample(thread, *frames):
    """One sample as perf script prints it, given from the outermost caller on; "name@dso"."""
    lines = [f"{thread:16} 4711 "]
    for i, frame in enumerate(reversed(frames)):
        name, _, dso = frame.partition("@")
        lines.append(f"\t{0x55d0_0000_1000 + i:16x} {name}+0x1f ({dso or '/usr/sbin/ordinald'})")
    return "\n".join(lines) + "\n\n"


TURN = ("clone3@/usr/lib/x86_64-linux-gnu/libc.so.6", "shard_main", "turn")
TEXT = (sample("shard/10", *TURN, "conn_flush") +
        sample("shard/2", *TURN, "ring_wait", "__do_sys_io_uring_enter@[kernel.kallsyms]") * 6 +
        sample("shard/2", *TURN, "h2<&>\"", "memcpy@/usr/lib/x86_64-linux-gnu/libc.so.6") * 2 +
        sample("journal", "run", "[unknown]@[unknown]"))


def run(*args, stdin=None, **env):
    return subprocess.run([FLAMEGRAPH, *map(str, args)], capture_output=True, text=True, check=False, input=stdin, env=dict(os.environ, **env))


def frames(svg):
    """[(name, samples, x, y, width, class)] in the order drawn."""
    found = []
    for g in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        name, samples = re.fullmatch(r"(.*) \((\d+) samples, [0-9.]+%\)", g.find(f"{SVG}title").text).groups()
        r = g.find(f"{SVG}rect").attrib
        found.append((name, int(samples), float(r["x"]), float(r["y"]), float(r["width"]), r["class"]))
    return found


def test_equal_stacks_are_one_frame_as_wide_as_their_share():
    done = run("--from", "-", "--output", "-", stdin=TEXT)
    assert done.returncode == 0, done.stderr
    drawn = frames(done.stdout)
    by_name = {name: rest for name, *rest in drawn}
    assert [(name, f[0]) for name, *f in drawn if f[4] == "thread"] == [("all threads", 10), ("shard/2", 8), ("shard/10", 1), ("journal", 1)]
    assert by_name["ring_wait"][0] == 6 and by_name['h2<&>"'][0] == 2
    assert by_name["__do_sys_io_uring_enter"][4] == "kernel" and by_name["memcpy"][4] == "shared" and by_name["ring_wait"][4] == "own"
    assert "clone3" not in by_name, "what every thread begins with is left out"
    width = by_name["all threads"][3]
    for name, samples, *_ in drawn:
        assert abs(by_name[name][3] - width * by_name[name][0] / 10) < 1, name
    # a callee lies on its caller, within its width
    caller, callee = by_name["ring_wait"], by_name["__do_sys_io_uring_enter"]
    assert callee[2] < caller[2] and callee[1] >= caller[1] and callee[1] + callee[3] <= caller[1] + caller[3] + 0.5


def test_the_picture_stands_alone():
    svg = run("--from", "-", "--output", "-", stdin=TEXT).stdout
    assert "<script" not in svg and "href" not in svg and svg.count("http") == 1, "the one address is the name space"


@pytest.mark.parametrize("text, words", [("", "no samples"), ("what is this\n", "perf script"), ("\n\n", "no samples")])
def test_text_that_is_none(text, words):
    done = run("--from", "-", "--output", "-", stdin=text)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_a_stack_too_deep_to_draw_is_cut():
    done = run("--from", "-", "--output", "-", stdin=sample("shard/0", *(f"f{i}" for i in range(3000))))
    assert done.returncode == 0, done.stderr
    names = {f[0] for f in frames(done.stdout)}
    assert {"f0", "f100"} <= names and "f2999" not in names


def test_names_that_xml_does_not_take():
    done = run("--from", "-", "--output", "-", stdin=sample("shard/0", "turn", "od\x01d\x7fna\ufffem"))
    assert done.returncode == 0, done.stderr
    assert "od?d?na?m" in {f[0] for f in frames(done.stdout)}


def test_usage():
    assert run().returncode == 2 and run("1", "--from", "x").returncode == 2
    done = run("--from", "/nowhere/at/all")
    assert done.returncode == 1 and "/nowhere/at/all" in done.stderr


def test_without_perf_it_says_how_to_get_it(server, tmp_path):
    os.symlink("/usr/bin/python3", tmp_path / "python3")
    done = run(server.pid, PATH=str(tmp_path))
    assert done.returncode == 1 and "perf is not installed" in done.stderr and "linux-perf" in done.stderr


def fake_perf(tmp_path, text):
    (tmp_path / "perf").write_text("#!/bin/sh\n" + text)
    (tmp_path / "perf").chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_where_the_kernel_forbids_it_it_says_which_setting(server, tmp_path):
    path = fake_perf(tmp_path, "echo 'Access to performance monitoring and observability operations is limited.\n"
                               "Consider adjusting /proc/sys/kernel/perf_event_paranoid setting' >&2; exit 255\n")
    done = run(server.pid, PATH=path)
    assert done.returncode == 1 and "kernel.perf_event_paranoid" in done.stderr and "root" in done.stderr


def test_what_else_perf_says_is_passed_on(server, tmp_path):
    done = run(server.pid, PATH=fake_perf(tmp_path, "echo 'no space for perf.data' >&2; exit 1\n"))
    assert done.returncode == 1 and "no space for perf.data" in done.stderr


def test_every_thread_of_the_daemon_is_recorded(server, tmp_path):
    (tmp_path / "script").write_text(TEXT)
    path = fake_perf(tmp_path, f'echo "$@" >> {tmp_path}/calls\n[ "$1" = script ] && cat {tmp_path}/script; exit 0\n')
    done = run(server.pid, "--duration", "0.1", "--output", tmp_path / "out.svg", PATH=path)
    assert done.returncode == 0 and "10 samples" in done.stdout, done.stderr
    assert frames((tmp_path / "out.svg").read_text())
    tids = re.search(r"-t (\S+)", (tmp_path / "calls").read_text())[1].split(",")
    assert sorted(tids) == sorted(os.listdir(f"/proc/{server.pid}/task"))


def test_a_process_that_is_no_daemon(tmp_path):
    path = fake_perf(tmp_path, "exit 0\n")
    assert "no running ordinald" in run(os.getpid(), PATH=path).stderr
    assert "no process" in run(2 ** 22 + 1, PATH=path).stderr


def test_a_real_recording(server, tmp_path):
    """Needs a perf that may record this user's processes."""
    probe = shutil.which("perf") and subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-g", "-o", tmp_path / "probe", "--", "true"],
                                                    capture_output=True, check=False)
    if not probe or probe.returncode:
        pytest.skip("perf is not installed or not allowed here")
    load = appliance.load_begin(server, "--duration", "600s")
    try:
        out = tmp_path / "out.svg"
        done = run(server.pid, "--duration", "2", "--output", out)
        assert done.returncode == 0, done.stderr
        names = {name for name, *_ in frames(out.read_text())}
        assert any(n.startswith("shard/") for n in names) and "shard_main" in names, names
    finally:
        load.kill()
        load.communicate()
