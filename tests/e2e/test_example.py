"""The service that rpc/README.md shows: it is built as it stands there, and called by stock gRPC, by native frames, and by the stubs that
protobuf-c generates, over rpc/client."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import types

import appliance
import grpc
import native
import pytest

EXAMPLE = os.path.join(appliance.ROOT, "tests", "example")
PROTO = os.path.join(EXAMPLE, "proto")
PROTOCOLS = ["native", "grpc"]


def program(name):
    return os.path.join(appliance.BUILD, "tests", name)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """HOST:PORT of example-server."""
    log_path = tmp_path_factory.mktemp("example") / "log"
    with open(log_path, "w", encoding="utf-8") as log:
        process = subprocess.Popen([program("example-server"), "--port", "0"], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process.stdout.readline().split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(appliance.PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert not appliance.COMPLAINTS.search(log_path.read_text())


@pytest.fixture(scope="module")
def readings(server, tmp_path_factory):
    """What grpc_tools makes of the .proto: (messages, stub)."""
    out = tmp_path_factory.mktemp("readings")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}/example/v1", f"--python_out={out}", f"--grpc_python_out={out}",
                    "readings.proto"], check=True)
    sys.path.insert(0, str(out))
    import readings_pb2
    import readings_pb2_grpc
    with grpc.insecure_channel(server) as channel:
        yield readings_pb2, readings_pb2_grpc.ReadingsStub(channel)


def client(server, protocol, *args):
    done = subprocess.run([program("example-client"), server, protocol, *map(str, args)], capture_output=True, text=True, check=False,
                          timeout=appliance.PATIENCE_S)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout.splitlines()


def test_a_stock_client_calls_it(readings):
    pb, stub = readings
    assert stub.Convert(pb.Reading(degrees=100)).degrees == 212
    with pytest.raises(grpc.RpcError) as e:
        stub.Convert(pb.Reading(degrees=-300))
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "-300 degrees are below absolute zero")
    summaries = stub.Summarize(iter([pb.Reading(degrees=d) for d in (20, -5, 37.5)]))
    assert [(s.count, s.lowest, s.highest) for s in summaries] == [(1, 20, 20), (2, -5, 20), (3, -5, 37.5)]


def test_a_client_that_does_not_read_pauses_the_stream(readings):
    """More answers than fit into windows and queues: the service stops taking requests, and goes on when they are read."""
    pb, stub = readings
    summaries = stub.Summarize(pb.Reading(degrees=d) for d in range(100_000))
    assert [s.count for s in summaries] == list(range(1, 100_001))


def test_native_frames_call_it(server, readings):
    pb, _ = readings
    host, port = server.rsplit(":", 1)
    here = types.SimpleNamespace(connect=lambda: socket.create_connection((host, int(port)), appliance.PATIENCE_S))
    with native.Client(here) as c:
        c.send(native.request(1, pb.Reading(degrees=-40).SerializeToString(), method=40))
        assert pb.Reading.FromString(c.get().payload).degrees == -40
        c.send(native.request(2, pb.Reading(degrees=-300).SerializeToString(), method=40))
        refused = c.get()
        assert refused.status == native.INVALID_ARGUMENT and refused.payload == b"-300 degrees are below absolute zero"
        c.send(native.request(3, pb.Reading(degrees=1).SerializeToString(), method=41, flags=0)
               + native.frame(native.MESSAGE, 3, pb.Reading(degrees=2).SerializeToString(), flags=native.LAST))
        frames = [c.get() for _ in range(3)]
        assert [pb.Summary.FromString(f.payload).count for f in frames[:2]] == [1, 2]
        assert frames[2].kind == native.END and frames[2].status == native.OK


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["convert", "together"])
def test_the_generated_stubs_call_it(server, protocol, how):
    assert client(server, protocol, how, 0, -300, 37) == ["32", "INVALID_ARGUMENT: -300 degrees are below absolute zero", "98.6"]
    assert client(server, protocol, how, *range(0, 500, 5)) == [f"{d * 9 / 5 + 32:g}" for d in range(0, 500, 5)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_generated_stubs_stream(server, protocol):
    assert client(server, protocol, "summarize", 20, -5, 37) == ["1: 20 to 20", "2: -5 to 20", "3: -5 to 37", "OK: "]
    assert client(server, protocol, "summarize", 20, -300)[-1] == "INVALID_ARGUMENT: -300 degrees are below absolute zero"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_stubs_say_that_nobody_is_there(protocol):
    done = subprocess.run([program("example-client"), "127.0.0.1:1", protocol, "convert", "1"], capture_output=True, text=True, check=False,
                          timeout=appliance.PATIENCE_S)
    assert done.returncode == 1 and "refused" in done.stderr


def test_the_readme_shows_what_is_built():
    """Each file that rpc/README.md shows stands there whole, as it is built."""
    with open(os.path.join(appliance.ROOT, "rpc", "README.md"), encoding="utf-8") as f:
        text = f.read()
    shown = re.findall(r"^`(tests/example/[\w./]+)`:\n\n((?:    .*\n|\n)+)", text, re.M)
    assert [name for name, _ in shown] == ["tests/example/proto/example/v1/readings.proto", "tests/example/svc_readings.c",
                                           "tests/example/example_server.c"]
    for name, block in shown:
        with open(os.path.join(appliance.ROOT, name), encoding="utf-8") as f:
            assert textwrap.dedent(block).strip("\n").expandtabs() == f.read().strip("\n").expandtabs(), name
