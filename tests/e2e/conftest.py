"""What the end-to-end tests share: a daemon to drive, and the clients to drive it with.

Environment: ORDINAL_BUILD, where ordinald and ordinal are (default: build/); ORDINAL_HEAVY=1 for the long forms of some tests;
ORDINAL_KILLS, how many times the crash tests kill the daemon.
"""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import appliance  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "heavy: minutes, or gigabytes; runs with ORDINAL_HEAVY=1")


def pytest_collection_modifyitems(items):
    if os.environ.get("ORDINAL_HEAVY") == "1":
        return
    for item in items:
        if item.get_closest_marker("heavy"):
            item.add_marker(pytest.mark.skip(reason="ORDINAL_HEAVY=1 runs it"))


@pytest.fixture
def daemon(tmp_path):
    """daemon(KEY=VALUE…) starts an ordinald of its own. One that still runs at the end of the test must have nothing left of clients
    that have gone, and has to stop cleanly."""
    started = []

    def start(**options):
        d = appliance.Daemon(tmp_path / f"ordinald-{len(started)}", options)
        started.append(d)
        d.start()
        return d

    def prepare(**options):
        """The same, not started yet."""
        d = appliance.Daemon(tmp_path / f"ordinald-{len(started)}", options)
        started.append(d)
        return d

    start.prepare = prepare
    yield start
    failures = []
    for d in started:
        try:
            if d.is_running():
                d.check_nothing_left()
                d.stop(patience_s=30)
            d.check_log()
        except AssertionError as e:
            failures.append(str(e))
        finally:
            d.destroy()
    assert not failures, "\n".join(failures)


@pytest.fixture
def server(daemon):
    """A daemon with two shards and no special options."""
    return daemon(SHARDS=2)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The Python modules that grpc_tools makes of the .proto files: stubs.pb and stubs.rpc (ordinal.proto), stubs.stats, stubs.health."""
    out = tmp_path_factory.mktemp("stubs")
    protos = os.path.join(appliance.ROOT, "rpc", "proto")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}",
                    "ordinal/v1/ordinal.proto", "ordinal/v1/stats.proto"], check=True)
    # Under a name of its own: "grpc" is the library's.
    health = out / "health.proto"
    with open(os.path.join(protos, "grpc", "health", "v1", "health.proto"), encoding="utf-8") as f:
        health.write_text(f.read())
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{out}", f"--python_out={out}", f"--grpc_python_out={out}",
                    "health.proto"], check=True)
    sys.path.insert(0, str(out))
    import health_pb2
    import health_pb2_grpc
    from ordinal.v1 import ordinal_pb2, ordinal_pb2_grpc, stats_pb2, stats_pb2_grpc

    class Stubs:
        pb = ordinal_pb2
        rpc = ordinal_pb2_grpc
        stats = stats_pb2
        stats_rpc = stats_pb2_grpc
        health = health_pb2
        health_rpc = health_pb2_grpc

    return Stubs


@pytest.fixture
def connect(daemon, stubs):
    """connect(d) gives an Ids stub on a gRPC channel of its own. The channels are closed before the daemons of the test are looked at."""
    import grpc
    channels = []

    def open_channel(d, *, options=(), address=None):
        # Each channel has a connection of its own, or the process shares one for equal arguments.
        channel = grpc.insecure_channel(address or d.address, options=[("grpc.use_local_subchannel_pool", 1), *options])
        channels.append(channel)
        ids = stubs.rpc.IdsStub(channel)
        ids.channel = channel
        return ids

    yield open_channel
    for channel in channels:
        channel.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", where], check=False,
                                       capture_output=True).returncode:
        pytest.skip("only root can mount a small file system here")
    yield where
    subprocess.run(["umount", "-l", where], check=True)
