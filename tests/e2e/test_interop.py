"""gRPC's interoperability cases (grpc/doc/interop-test-descriptions.md), by the names they have there, with a stock client, against
grpc.testing.TestService on the daemon's own sessions. In cleartext and over TLS. ORDINAL_HEAVY=1 runs each 50 times.
"""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import appliance
import grpc
import pytest

SERVER = os.path.join(appliance.BUILD, "tests", "interop-server")
ROUNDS = 50 if os.environ.get("ORDINAL_HEAVY") == "1" else 1


@pytest.fixture(scope="module")
def t(tmp_path_factory):
    """The generated modules: t.pb and t.rpc."""
    out = tmp_path_factory.mktemp("testing")
    proto = os.path.join(appliance.ROOT, "tests", "interop", "proto", "grpc", "testing", "test.proto")
    (out / "interop_test.proto").write_text(open(proto, encoding="utf-8").read())
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{out}", f"--python_out={out}", f"--grpc_python_out={out}",
                    "interop_test.proto"], check=True)
    sys.path.insert(0, str(out))
    import interop_test_pb2
    import interop_test_pb2_grpc

    class Modules:
        pb = interop_test_pb2
        rpc = interop_test_pb2_grpc

    return Modules


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def channel(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("interop")
    arguments, secret = [], None
    if request.param == "tls":
        cert, key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                        cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                       capture_output=True)
        arguments = ["--tls-cert", cert, "--tls-key", key]
        secret = grpc.ssl_channel_credentials(cert.read_bytes())
    with open(directory / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen([SERVER, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)]
        with grpc.secure_channel(address, secret, options) if secret else grpc.insecure_channel(address, options) as c:
            yield c
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    said = (directory / "log").read_text()
    assert not appliance.COMPLAINTS.search(said), said


@pytest.fixture
def stub(channel, t):
    return t.rpc.TestServiceStub(channel)


@pytest.fixture(params=range(ROUNDS))
def again(request):
    """Names the round, and runs the case ROUNDS times."""
    return request.param


pytestmark = pytest.mark.usefixtures("again")


def payload(t, size):
    return t.pb.Payload(body=bytes(size))


def test_empty_unary(stub, t):
    assert stub.EmptyCall(t.pb.Empty()) == t.pb.Empty()


def test_large_unary(stub, t):
    reply = stub.UnaryCall(t.pb.SimpleRequest(response_size=314159, payload=payload(t, 271828)))
    assert reply.payload.body == bytes(314159)


def test_a_thousand_large_unary_at_once(stub, t):
    request = t.pb.SimpleRequest(response_size=314159, payload=payload(t, 271828))
    futures = [stub.UnaryCall.future(request) for _ in range(1000 if ROUNDS == 1 else 100)]
    assert all(len(f.result().payload.body) == 314159 for f in futures)


def test_client_compressed_unary(stub, t):
    probe = t.pb.SimpleRequest(expect_compressed=t.pb.BoolValue(value=True), response_size=314159, payload=payload(t, 271828))
    with pytest.raises(grpc.RpcError) as e:
        stub.UnaryCall(probe, compression=grpc.Compression.NoCompression)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(stub.UnaryCall(probe, compression=grpc.Compression.Gzip).payload.body) == 314159
    probe.expect_compressed.value = False
    assert len(stub.UnaryCall(probe, compression=grpc.Compression.NoCompression).payload.body) == 314159


@pytest.mark.parametrize("compressed", [True, False])
def test_server_compressed_unary(stub, t, compressed):
    request = t.pb.SimpleRequest(response_compressed=t.pb.BoolValue(value=compressed), response_size=314159, payload=payload(t, 271828))
    reply, call = stub.UnaryCall.with_call(request)
    assert reply.payload.body == bytes(314159)


def test_client_streaming(stub, t):
    sizes = (27182, 8, 1828, 45904)
    reply = stub.StreamingInputCall(iter([t.pb.StreamingInputCallRequest(payload=payload(t, n)) for n in sizes]))
    assert reply.aggregated_payload_size == 74922


def parameters(t, *sizes, compressed=None, interval_us=0):
    return [t.pb.ResponseParameters(size=n, interval_us=interval_us, compressed=None if compressed is None else t.pb.BoolValue(
        value=compressed)) for n in sizes]


def test_server_streaming(stub, t):
    sizes = (31415, 9, 2653, 58979)
    replies = stub.StreamingOutputCall(t.pb.StreamingOutputCallRequest(response_parameters=parameters(t, *sizes)))
    assert [len(r.payload.body) for r in replies] == list(sizes)


def test_server_compressed_streaming(stub, t):
    wanted = parameters(t, 31415, compressed=True) + parameters(t, 92653, compressed=False)
    replies = stub.StreamingOutputCall(t.pb.StreamingOutputCallRequest(response_parameters=wanted))
    assert [len(r.payload.body) for r in replies] == [31415, 92653]


class Requests:
    """A stream of requests that is written as the replies come."""

    def __init__(self):
        self.condition = threading.Condition()
        self.queue, self.closed = [], False

    def send(self, message):
        with self.condition:
            self.queue.append(message)
            self.condition.notify()

    def close(self):
        with self.condition:
            self.closed = True
            self.condition.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.condition:
            self.condition.wait_for(lambda: self.queue or self.closed, 60)
            if not self.queue:
                raise StopIteration
            return self.queue.pop(0)


def ask(t, answer, body):
    return t.pb.StreamingOutputCallRequest(response_parameters=parameters(t, answer), payload=payload(t, body))


def test_ping_pong(stub, t):
    requests = Requests()
    replies = stub.FullDuplexCall(requests)
    for answer, body in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
        requests.send(ask(t, answer, body))
        assert len(next(replies).payload.body) == answer
    requests.close()
    assert list(replies) == []


def test_half_duplex(stub, t):
    replies = stub.HalfDuplexCall(iter([ask(t, n, 5) for n in (1, 2, 3)]))
    assert [len(r.payload.body) for r in replies] == [1, 2, 3]


def test_empty_stream(stub):
    assert list(stub.FullDuplexCall(iter(()))) == []


INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")


def test_custom_metadata(stub, t):
    def check(call):
        assert INITIAL in [tuple(m) for m in call.initial_metadata()]
        assert TRAILING in [tuple(m) for m in call.trailing_metadata()]

    request = t.pb.SimpleRequest(response_size=314159, payload=payload(t, 271828))
    _, call = stub.UnaryCall.with_call(request, metadata=(INITIAL, TRAILING))
    check(call)
    stream = stub.FullDuplexCall(iter([ask(t, 314159, 271828)]), metadata=(INITIAL, TRAILING))
    assert len(list(stream)) == 1
    check(stream)


def test_status_code_and_message(stub, t):
    status = t.pb.EchoStatus(code=2, message="test status message")
    with pytest.raises(grpc.RpcError) as e:
        stub.UnaryCall(t.pb.SimpleRequest(response_status=status))
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.UNKNOWN, "test status message")
    with pytest.raises(grpc.RpcError) as e:
        list(stub.FullDuplexCall(iter([t.pb.StreamingOutputCallRequest(response_status=status)])))
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.UNKNOWN, "test status message")


@pytest.mark.parametrize("code", [17, 99, 1000, 99999, 2**31 - 1, -1, -(2**31)])
def test_a_status_code_that_is_none_is_unknown(stub, t, code):
    """D6: one of these ended the server. Its text arrives."""
    status = t.pb.EchoStatus(code=code, message="made up")
    for call in (lambda: stub.UnaryCall(t.pb.SimpleRequest(response_status=status)),
                 lambda: list(stub.StreamingOutputCall(t.pb.StreamingOutputCallRequest(response_status=status))),
                 lambda: list(stub.FullDuplexCall(iter([t.pb.StreamingOutputCallRequest(response_status=status)])))):
        with pytest.raises(grpc.RpcError) as e:
            call()
        assert (e.value.code(), e.value.details()) == (grpc.StatusCode.UNKNOWN, "made up")


def test_a_long_status_message_is_cut(stub, t):
    """Between characters."""
    with pytest.raises(grpc.RpcError) as e:
        stub.UnaryCall(t.pb.SimpleRequest(response_status=t.pb.EchoStatus(code=2, message="a" + "☺" * 100_000)))
    assert e.value.code() == grpc.StatusCode.UNKNOWN
    text = e.value.details()
    assert 100 < len(text) <= 1024 and text == "a" + "☺" * (len(text) - 1)


def test_special_status_message(stub, t):
    message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    with pytest.raises(grpc.RpcError) as e:
        stub.UnaryCall(t.pb.SimpleRequest(response_status=t.pb.EchoStatus(code=2, message=message)))
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.UNKNOWN, message)


def test_unimplemented_method(stub, t):
    with pytest.raises(grpc.RpcError) as e:
        stub.UnimplementedCall(t.pb.Empty())
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_unimplemented_service(channel, t):
    with pytest.raises(grpc.RpcError) as e:
        t.rpc.UnimplementedServiceStub(channel).UnimplementedCall(t.pb.Empty())
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_cancel_after_begin(stub):
    future = stub.StreamingInputCall.future(Requests())
    future.cancel()
    assert future.cancelled() and future.code() == grpc.StatusCode.CANCELLED


def test_cancel_after_first_response(stub, t):
    requests = Requests()
    replies = stub.FullDuplexCall(requests)
    requests.send(ask(t, 31415, 27182))
    assert len(next(replies).payload.body) == 31415
    replies.cancel()
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert replies.code() == grpc.StatusCode.CANCELLED
    requests.close()


def test_timeout_on_sleeping_server(stub, t):
    requests = Requests()
    request = t.pb.StreamingOutputCallRequest(response_parameters=parameters(t, 31415, interval_us=5_000_000), payload=payload(t, 27182))
    requests.send(request)
    with pytest.raises(grpc.RpcError) as e:
        list(stub.FullDuplexCall(requests, timeout=0.1))
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    requests.close()


def test_a_reader_that_is_slow_gets_all(stub, t):
    wanted = t.pb.StreamingOutputCallRequest(response_parameters=parameters(t, *([100_000] * 100)))
    total = 0
    for i, reply in enumerate(stub.StreamingOutputCall(wanted)):
        total += len(reply.payload.body)
        if i % 10 == 0:
            time.sleep(0.01)
    assert total == 10_000_000


def test_cases_side_by_side(stub, t):
    cases = (test_empty_unary, test_large_unary, test_server_streaming, test_client_streaming, test_ping_pong, test_custom_metadata,
             test_special_status_message, test_client_compressed_unary)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(case, stub, t) for case in cases for _ in range(8)]:
            future.result()
