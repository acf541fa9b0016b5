"""SIGHUP reads the configuration again: what can change does, what cannot is named, and what is wrong changes nothing."""

import os
import signal

import pytest

import appliance
import native


def configured(daemon, tmp_path, text):
    conf = tmp_path / "ordinal.conf"
    conf.write_text(text)
    d = daemon.prepare(SHARDS=2)
    command = d.command()
    d.command = lambda: [*command, "-c", str(conf)]
    d.start()
    return d, conf


def hang_up(d):
    """What it says to SIGHUP."""
    before = len(d.log())
    d.signal(signal.SIGHUP)
    appliance.wait_until(lambda: any(w in d.log()[before:] for w in ("Reloaded: ", "reload refused")), "the answer to SIGHUP")
    return d.log()[before:]


def test_what_changes_and_what_needs_a_restart_is_listed(daemon, tmp_path):
    d, conf = configured(daemon, tmp_path, "CONFIG_WINDOW_MIN=1000\n")
    conf.write_text('CONFIG_WINDOW_MIN=1001\nCONFIG_BODY_TIMEOUT_MS=1234\nCONFIG_LOG_LEVEL="debug"\n')
    said = hang_up(d)
    assert "BODY_TIMEOUT_MS is 1234 now; it was 10000" in said
    assert 'LOG_LEVEL is "debug" now; it was "info"' in said
    assert "WINDOW_MIN is 1001 in the file and 1000 in force; a restart is needed" in said
    said = hang_up(d)
    assert "changed nothing" in said and "a restart is needed for WINDOW_MIN" in said


def test_a_limit_holds_at_once(daemon, tmp_path):
    """On every shard, for connections that come after it."""
    d, conf = configured(daemon, tmp_path, "CONFIG_PREFACE_TIMEOUT_MS=3600000\n")
    before = d.sockets()
    waiting = [d.connect() for _ in range(4)]
    appliance.wait_until(lambda: d.sockets() == before + 4, "the connections to be accepted")
    conf.write_text("CONFIG_PREFACE_TIMEOUT_MS=50\n")
    hang_up(d)
    for _ in range(4):
        with d.connect() as s:
            try:
                assert s.recv(1) == b"", "cut off for saying nothing"
            except ConnectionResetError:
                pass
    for s in waiting:  # the others have the time that they were given
        s.sendall(native.request(1, native.next_request("")))
        assert s.recv(1) == bytes([native.MAGIC])
        s.close()


def test_the_level_of_the_log(daemon, tmp_path):
    d, conf = configured(daemon, tmp_path, "")
    conf.write_text('CONFIG_LOG_LEVEL="error"\n')
    hang_up(d)
    quiet = len(d.log())
    conf.write_text('CONFIG_LOG_LEVEL="error"\nCONFIG_IDLE_TIMEOUT_MS=5000\n')
    assert "IDLE_TIMEOUT_MS" in hang_up(d), "the answer is not silenced"
    conf.write_text("")
    hang_up(d)
    assert "SIGHUP: the log was reopened" not in d.log()[quiet:]
    d.stop()
    assert "stopped" in d.log()[quiet:]


def test_a_wrong_file_changes_nothing(daemon, tmp_path):
    d, conf = configured(daemon, tmp_path, "CONFIG_BODY_TIMEOUT_MS=5000\n")
    conf.write_text("CONFIG_BODY_TIMEOUT_MS=6000\nCONFIG_WINDOW_MIN=none\n")
    said = hang_up(d)
    assert "reload refused, nothing has changed" in said and "ordinal.conf:2" in said and "WINDOW_MIN" in said
    os.unlink(conf)
    said = hang_up(d)
    assert "reload refused" in said and "No such file" in said
    conf.write_text("CONFIG_BODY_TIMEOUT_MS=7000\n")
    assert "BODY_TIMEOUT_MS is 7000 now; it was 5000" in hang_up(d)
    with native.Client(d) as c:
        assert c.next() == range(1, 2)


def test_many_reloads_under_load(daemon, tmp_path):
    d, conf = configured(daemon, tmp_path, "")
    load = appliance.load_begin(d, "--duration", "2", "--connections", "4")
    for i in range(30):
        conf.write_text(f"CONFIG_IDLE_TIMEOUT_MS={60000 + i}\nCONFIG_SPIN_US={i % 2 * 5}\n")
        hang_up(d)
    code, report = appliance.load_end(load)
    assert code == 0 and report["errors"] == 0 and report["check"]["ok"], report


def test_config_diff(tmp_path):
    conf = tmp_path / "ordinal.conf"
    conf.write_text('CONFIG_SHARDS=2\nCONFIG_ID_ORDER="sharded"\nCONFIG_SPIN_US=7\nCONFIG_TLS_CERT="a \\"b\\" \\\\c"\nCONFIG_TLS_KEY="k"\nCONFIG_WINDOW_MIN=1000\n')
    out = appliance.tool("config", "diff", "-c", conf).stdout
    assert [line for line in out.splitlines() if not line.startswith("\t")] == [
        'CONFIG_TLS_CERT="a \\"b\\" \\\\c"', 'CONFIG_TLS_KEY="k"', "CONFIG_SHARDS=2", "CONFIG_SPIN_US=7", 'CONFIG_ID_ORDER="sharded"']
    assert "default 0; a change takes effect on reload" in out and "default 0; a change takes effect on restart" in out
    again = tmp_path / "again.conf"
    again.write_text(out)
    assert appliance.tool("config", "diff", "-c", again).stdout == out
    conf.write_text("")
    assert "all defaults" in appliance.tool("config", "diff", "-c", conf).stdout
    conf.write_text("CONFIG_SHARDS=x\n")
    done = appliance.tool("config", "diff", "-c", conf, check=False)
    assert done.returncode == 1 and "SHARDS" in done.stderr


@pytest.mark.parametrize("profile", ["latency", "throughput", "small"])
def test_the_profiles_run(daemon, profile):
    d = daemon.prepare()
    command = d.command()
    d.command = lambda: [*command, "-c", os.path.join(appliance.ROOT, "systemd", "profiles", profile + ".conf")]
    d.start()
    with native.Client(d) as c:
        assert c.next() == range(1, 2)
