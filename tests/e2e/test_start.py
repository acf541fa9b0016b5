"""Starting: what it needs, what it refuses, and how it says so. And what it does with its log."""

import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

import appliance
import native


def is_root():
    return os.geteuid() == 0


def test_the_port_in_use(daemon):
    d = daemon(SHARDS=2)
    other = daemon.prepare(LISTEN=d.address)
    code, said = other.start_refused()
    assert code == 1 and d.address in said and "LISTEN" in said


def race(one, two):
    """Starts both at the same moment, and returns (the one that listens, the one that gave up)."""
    one.launch()
    two.launch()

    def ended():
        return [d for d in (one, two) if d.process.poll() is not None]

    def is_decided():
        listening = [d for d in (one, two) if re.search(r" listens on \S+: ", d.log_since_start())]
        return len(listening) + len(ended()) == 2
    appliance.wait_until(is_decided, "one to listen and the other to give up")
    assert len(ended()) == 1, "both run"
    loser = ended()[0]
    return (two if loser is one else one), loser


def test_two_daemons_that_start_at_once_both_had_the_port(daemon):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % s.getsockname()[1]
    one, two = daemon.prepare(LISTEN=address, SHARDS=2), daemon.prepare(LISTEN=address.replace("127.0.0.1", "[::ffff:127.0.0.1]"), SHARDS=2)
    for _ in range(10):
        winner, loser = race(one, two)
        assert loser.process.returncode == 1
        assert f"process {winner.pid} (ordinald) listens on {address}" in loser.log_since_start()
        winner.stop()


def test_two_daemons_that_start_at_once_on_one_stats_socket(daemon):
    one, two = daemon.prepare(SHARDS=1), daemon.prepare(SHARDS=1)
    two.options["STATS_SOCKET"] = one.options["STATS_SOCKET"]
    for _ in range(5):
        winner, loser = race(one, two)
        assert loser.process.returncode == 1 and str(one.stats_socket) in loser.log_since_start()
        assert one.stats()["pid"] == winner.pid
        winner.stop()


def test_the_port_of_an_outgoing_connection(daemon):
    """The kernel gives 50051, too, to whoever connects to somewhere."""
    with socket.create_server(("127.0.0.1", 0)) as peer, socket.create_connection(peer.getsockname()) as c:
        code, said = daemon.prepare(LISTEN="127.0.0.1:%d" % c.getsockname()[1]).start_refused()
        assert code == 1 and f"process {os.getpid()} (" in said and "connection to 127.0.0.1:%d" % peer.getsockname()[1] in said
        assert "ordinal-tune" in said


@pytest.mark.skipif(not is_root() or not shutil.which("setpriv"), reason="needs root, and setpriv (util-linux), to be a user without rights")
def test_a_lock_of_any_local_user_stopped_the_start(daemon, tmp_path):
    """A stranger locks everything that he can open for reading, in the directories of the stats socket and of the data."""
    locker = "import fcntl, os, sys\nn = 0\nfor f in sys.argv[1:]:\n try:\n  fcntl.flock(os.open(f, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)\n" \
        "  n += 1\n except OSError: pass\nprint(n, flush=True)\nsys.stdin.read()"
    d = daemon.prepare(SHARDS=1, DATA_WITNESS=tmp_path / "witness", LOG_TARGET=f"file:{tmp_path / 'ordinald.log'}")
    for directory in (*tmp_path.parents[:2], tmp_path, d.directory):  # pytest makes them for its own user
        os.chmod(directory, 0o755)
    os.umask(0o022)

    def run():
        d.launch()
        appliance.wait_until(d.stats_socket.exists, "the start")
        d.stop()
    run()
    os.chmod(d.data, 0o755)  # as an administrator may have it
    found = [d.directory, d.data, *d.data.rglob("*"), *tmp_path.glob("*")]
    with subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", locker, *found],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert int(stranger.stdout.readline()) > 1, "he has at least the directories"
        try:
            run()
        finally:
            stranger.stdin.close()


def test_an_ipv4_address_written_as_ipv6_was_refused_without_a_reason(daemon):
    d = daemon(SHARDS=1, LISTEN="[::ffff:127.0.0.1]:0")
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


@pytest.mark.skipif(not is_root() or not shutil.which("unshare"), reason="needs root, and unshare, to set bindv6only of a network of its own")
def test_any_address_serves_ipv4_whatever_the_system_says(daemon):
    d = daemon.prepare(SHARDS=2, LISTEN="[::]:50051", ALLOW_CLEARTEXT="y")
    d.wrapper = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo 1 > /proc/sys/net/ipv6/bindv6only && exec \"$@\"", "sh"]
    d.launch()
    appliance.wait_until(lambda: "listens on" in d.log() or not d.is_running(), "the start")
    if not d.is_running() or shutil.which("nsenter") is None:
        pytest.skip("no network namespaces here, or no IPv6: " + d.log())
    done = subprocess.run(["nsenter", f"--net=/proc/{d.pid}/ns/net", appliance.ORDINAL, "next", "--server", "127.0.0.1:50051"],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == "1", done.stderr


def test_the_data_directory_in_use(daemon):
    d = daemon(SHARDS=1)
    other = daemon.prepare(DATA_DIR=d.data)
    code, said = other.start_refused()
    assert code == 1 and str(d.data) in said and "stop that one, or give each a DATA_DIR of its own" in said
    with native.Client(d) as c:
        assert c.next() == range(1, 2)
    d.stop()
    other.start()
    with native.Client(other) as c:
        assert c.next() == range(2, 3)


def test_a_stale_lock_is_none(daemon):
    d = daemon(SHARDS=1)
    d.kill()
    d.start()


@pytest.mark.skipif(is_root(), reason="root may write anywhere")
def test_a_read_only_data_directory(daemon):
    d = daemon.prepare(SHARDS=1)
    d.data.mkdir(mode=0o500)
    code, said = d.start_refused()
    assert code == 1 and str(d.data) in said and "give it to the user that ordinald runs as" in said


def test_a_data_directory_that_cannot_be(daemon):
    d = daemon.prepare(SHARDS=1)
    d.directory.joinpath("file").write_text("not a directory")
    d.options["DATA_DIR"] = d.directory / "file" / "data"
    code, said = d.start_refused()
    assert code == 1 and str(d.directory / "file") in said
    d.options["DATA_DIR"] = d.directory / "file"
    code, said = d.start_refused()
    assert code == 1 and str(d.directory / "file") in said


def read_only(where, on):
    return subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", where], check=False, capture_output=True).returncode == 0


def test_a_read_only_file_system(daemon, small_disk):
    assert read_only(small_disk, True)
    d = daemon.prepare(DATA_DIR=small_disk / "data")
    code, said = d.start_refused()
    assert code == 1 and "Read-only file system" in said and "mount it writable" in said and "ReadWritePaths=" in said


def test_a_full_disk_at_start(daemon, small_disk):
    appliance.fill_disk(small_disk)
    d = daemon.prepare(DATA_DIR=small_disk / "data")
    code, said = d.start_refused()
    assert code == 1 and "No space left on device" in said and "make room there" in said
    (small_disk / "filling").unlink()
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


def test_a_full_disk_while_running(daemon, small_disk):
    """It stops rather than acknowledge what is not durable: nobody gets an ID twice, before or after."""
    d = daemon.prepare(DATA_DIR=small_disk / "data", SHARDS=2, WINDOW_MIN=1, WINDOW_MAX=1, COUNT_MAX=1, SEQUENCES_MAX=65536,
                       DRAIN_TIMEOUT_MS=500)
    d.start()
    appliance.fill_disk(small_disk)
    got, asked = {}, 0
    with native.Client(d) as c:
        try:
            while asked < 60_000:  # each name is a record of its own
                names = [f"{'x' * 100}-{asked + i}" for i in range(500)]
                c.send(b"".join(native.request(i, native.next_request(n)) for i, n in enumerate(names)))
                for _ in names:
                    f = c.get()
                    if f is None or f.kind == native.GOAWAY:
                        raise OSError
                    if f.kind == native.MESSAGE:
                        assert names[f.call] not in got
                        got[names[f.call]] = f.ids()
                asked += 500
        except OSError:
            pass
    assert asked < 60_000, "the disk was full"
    assert d.process.wait(appliance.PATIENCE_S) == 1
    assert "journal has failed" in d.log() and "make room there and start it again" in d.log()
    (small_disk / "filling").unlink()
    d.start()
    with native.Client(d) as c:
        for name in list(got)[::100]:
            assert c.next(name).start > got[name].start


def test_other_machines_are_kept_out_by_default(daemon):
    d = daemon.prepare(LISTEN="0.0.0.0:0", SHARDS=1)
    code, said = d.start_refused()
    assert code in (1, 2) and "ALLOW_CLEARTEXT" in said and "loopback" in said
    d.options["ALLOW_CLEARTEXT"] = "y"
    d.start()
    d.host = "127.0.0.1"
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


@pytest.mark.parametrize("listen", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "nowhere.invalid:1", "::1:50051x",
                                    "256.0.0.1:1"])
def test_addresses_that_are_none(daemon, listen):
    d = daemon.prepare(LISTEN=listen, SHARDS=1)
    code, said = d.start_refused()
    assert code in (1, 2) and "LISTEN" in said


@pytest.mark.parametrize("option, words", [
    ("SHARDS=65", ["SHARDS", "64"]), ("SHARDS=x", ["SHARDS"]), ("NO_SUCH=1", ["NO_SUCH"]), ("ID_ORDER=random", ["ID_ORDER", "strict", "sharded"]),
    ("QUEUE_DEPTH=1000", ["QUEUE_DEPTH", "power of two"]), ("SEQUENCE_CREATE=maybe", ["SEQUENCE_CREATE"]), ("SHARDS", ["SHARDS"]),
    ("WINDOW_MIN=0", ["WINDOW_MIN"]), ("COUNT_MAX=5000000", ["COUNT_MAX", "WINDOW_MAX"])])
def test_bad_configuration(daemon, option, words):
    d = daemon.prepare()
    done = subprocess.run([*d.command(), "-o", option], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert all(w in done.stderr for w in words), done.stderr
    assert not d.data.exists(), "nothing was touched"


def test_wrong_arguments(tmp_path):
    for args in (["--nope"], ["extra"], ["-c", str(tmp_path / "missing")], ["-o"]):
        done = subprocess.run([appliance.ORDINALD, *args], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 2 and done.stderr, args


@pytest.mark.parametrize("options, words", [
    (["TLS_CERT=/nowhere", "TLS_KEY=/nowhere"], "No such file"), (["ACCESS_FILE=/nowhere"], "ACCESS_FILE cannot be read"), (["CPUS=999"], "CPU 999"),
    (["ID_QUEUE=none"], 'ID_QUEUE="none"'), (["HANDLER_THREADS=1", "HANDLER_QUEUE=none"], 'HANDLER_QUEUE="none"'),
    (["HANDLER_THREADS=1", "ID_ORDER=sharded"], "ID_ORDER=strict")])
def test_mistakes_that_check_called_valid_and_start_called_a_failure(daemon, options, words):
    """systemd does not try again after exit code 2."""
    d = daemon.prepare()
    args = [a for o in options for a in ("-o", o)]
    for more in (["--check"], []):
        done = subprocess.run([*d.command(), *args, *more], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
        assert done.returncode == 2 and words in done.stderr + d.log(), (more, done.stderr)


def test_a_configuration_that_is_a_pipe_kept_the_main_thread_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = subprocess.run([appliance.ORDINALD, "-c", tmp_path / "pipe", "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "it is a pipe, and has to be a file" in done.stderr


def test_check_and_dump(tmp_path):
    done = subprocess.run([appliance.ORDINALD, "--dump-config", "-o", "SHARDS=3"], capture_output=True, text=True, check=True)
    assert "CONFIG_SHARDS=3" in done.stdout
    conf = tmp_path / "ordinal.conf"
    conf.write_text(done.stdout)
    assert subprocess.run([appliance.ORDINALD, "-c", conf, "--check"], check=False, capture_output=True).returncode == 0
    again = subprocess.run([appliance.ORDINALD, "-c", conf, "--dump-config"], capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout


def test_a_file_and_what_overrides_it(daemon, tmp_path):
    conf = tmp_path / "ordinal.conf"
    conf.write_text('CONFIG_COUNT_MAX=7\nCONFIG_ID_ORDER="sharded"\n')
    d = daemon.prepare(SHARDS=1, ID_ORDER="strict")
    d.wrapper = ["env"]
    command = d.command()
    d.command = lambda: [*command, "-c", str(conf)]
    d.start()
    with native.Client(d) as c:
        assert native.next_reply(c.call(native.next_request(count=7)).payload) == (1, 7, 0)
        assert c.call(native.next_request(count=8)).code == native.RESOURCE_EXHAUSTED


def test_sighup_reopens_the_log(daemon, tmp_path):
    log = tmp_path / "ordinald.log"
    d = daemon.prepare(SHARDS=1, LOG_TARGET=f"file:{log}")
    d.launch()
    appliance.wait_until(lambda: log.exists() and "listens on" in log.read_text(), "the log")
    os.rename(log, tmp_path / "ordinald.log.1")
    d.signal(signal.SIGHUP)
    appliance.wait_until(lambda: log.exists() and "SIGHUP" in log.read_text(), "the new log")
    d.stop()
    assert "stopped" in log.read_text()
    assert "stopped" not in (tmp_path / "ordinald.log.1").read_text()


def test_sighup_without_a_log_file_is_harmless(daemon):
    d = daemon(SHARDS=1)
    for _ in range(3):
        d.signal(signal.SIGHUP)
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


def test_no_stats_socket(daemon):
    d = daemon(SHARDS=1, STATS_SOCKET="")
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


def test_a_stale_stats_socket_is_replaced(daemon):
    d = daemon(SHARDS=1)
    d.kill()
    assert d.stats_socket.exists()
    d.start()
    assert d.stats()["pid"] == d.pid


def test_a_stats_socket_that_is_a_file(daemon):
    """Something else's file is not deleted."""
    d = daemon.prepare(SHARDS=1)
    d.stats_socket.write_text("precious")
    code, said = d.start_refused()
    assert code == 1 and str(d.stats_socket) in said
    assert d.stats_socket.read_text() == "precious"


def test_memory_that_is_short(daemon):
    """Too little memory for the rings is one sentence, not a crash."""
    if appliance.is_sanitized():
        pytest.skip("sanitizers need address space without end")
    d = daemon.prepare(SHARDS=2, RECV_BUFFERS=32768, RECV_BUFFER_SIZE=65536)
    if not shutil.which("prlimit"):
        pytest.skip("prlimit (util-linux) is not installed")
    d.wrapper = ["prlimit", "--as=400000000"]
    code, said = d.start_refused()
    assert code == 1 and "memory" in said


def test_both_names_of_an_option(daemon):
    done = subprocess.run([appliance.ORDINALD, "--dump-config", "-o", "CONFIG_COUNT_MAX=9"], capture_output=True, text=True, check=True)
    assert "CONFIG_COUNT_MAX=9" in done.stdout


def test_the_ring_is_restricted(daemon):
    """What the ring may run is limited to what a server needs (unit/core/test_ring.c says how)."""
    d = daemon(SHARDS=1)
    assert any("io_uring: " in line and "restricted" in line for line in d.log().splitlines()), d.log()


def test_a_folder_that_is_no_streams_is_named(daemon):
    """"the data directory has a stream whose name is not one" did not say which."""
    d = daemon()
    d.stop()
    (d.data / "stream..zz").mkdir()
    code, said = d.start_refused()
    assert code == 1 and "a folder stream..zz" in said, said
    (d.data / "stream..zz").rmdir()
    d.start()
