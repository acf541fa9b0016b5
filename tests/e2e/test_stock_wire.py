"""What stock clients and proxies send that is a little off the usual, and what gRPC's own servers make of it."""

import gzip
import os
import signal
import socket
import subprocess
import types

import appliance
import grpc
import pytest

import h2raw
import native
from h2raw import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, call, frame, message, request_fields, settings
from native import next_request


@pytest.fixture
def conn(server):
    with Connection(server) as c:
        yield c


@pytest.fixture(scope="module")
def interop_server():
    """grpc.testing.TestService on the daemon's own sessions."""
    server = subprocess.Popen([os.path.join(appliance.BUILD, "tests", "interop-server"), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        host, port = server.stdout.readline().split()[-1].rsplit(":", 1)
        yield types.SimpleNamespace(connect=lambda: socket.create_connection((host, int(port)), 60))
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()


def first_bytes(c, stream):
    """Of each header block that came for the stream."""
    return c.answer(stream).first_bytes


# The dynamic table: RFC 9113 section 4.3.1, RFC 7541 section 4.2.

@pytest.mark.parametrize("size", [0, 1, 1024, 4095])
@pytest.mark.parametrize("first", ["unary", "unknown method", "stream", "no gRPC"])
def test_a_smaller_header_table_is_acknowledged_by_a_size_update(conn, size, first):
    """Strict decoders refused each answer: COMPRESSION_ERROR. The update stands in the first block, and in no later one."""
    conn.send(settings(HEADER_TABLE_SIZE=size))
    if first == "unary":
        conn.send(call(1))
    elif first == "unknown method":
        conn.send(call(1, path="/ordinal.v1.Ids/Nothing"))
    elif first == "stream":
        conn.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block(h2raw.TAKE_PATH))
                  + frame(DATA, END_STREAM, 1, message(next_request())))
    else:
        conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 1,
                        h2raw.block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x"))))
    firsts = first_bytes(conn, 1)
    assert firsts[0] == b"\x20" and b"\x20" not in firsts[1:], firsts
    conn.send(call(3))
    assert b"\x20" not in first_bytes(conn, 3)
    conn.send(settings(HEADER_TABLE_SIZE=4096) + settings(HEADER_TABLE_SIZE=0) + call(5))  # the table is off already
    assert b"\x20" not in first_bytes(conn, 5)


@pytest.mark.parametrize("size", [4096, 65536, 0xffffffff])
def test_a_larger_header_table_changes_nothing(conn, size):
    conn.send(settings(HEADER_TABLE_SIZE=size) + call(1))
    assert b"\x20" not in first_bytes(conn, 1)
    assert conn.answer(1).status == 0


def test_an_answer_fits_the_clients_header_list(conn):
    """The status comes; the sentence is left out where the client takes no list of such a size."""
    conn.send(settings(MAX_HEADER_LIST_SIZE=200) + call(1, path="/ordinal.v1.Ids/" + "N" * 200))
    a = conn.answer(1)
    assert a.status == native.UNIMPLEMENTED and not a.text
    conn.send(settings(MAX_HEADER_LIST_SIZE=4000) + call(3, path="/ordinal.v1.Ids/" + "N" * 200))
    a = conn.answer(3)
    assert a.status == native.UNIMPLEMENTED and a.text


# Request headers.

@pytest.mark.parametrize("value", ["Application/GRPC", "application/gRPC+proto", "APPLICATION/GRPC;charset=utf-8", "application/grpc ; a=b"])
def test_a_media_type_has_no_case(conn, value):
    fields = [(n, value if n == "content-type" else v) for n, v in request_fields()]
    conn.send(frame(HEADERS, END_HEADERS, 1, h2raw.block(*fields)) + frame(DATA, END_STREAM, 1, message()))
    assert conn.answer(1).status == 0


@pytest.mark.parametrize("value", ["application/grpcx", "application/json", "application/grp"])
def test_another_media_type_is_none_of_grpc(conn, value):
    fields = [(n, value if n == "content-type" else v) for n, v in request_fields()]
    conn.send(frame(HEADERS, END_HEADERS, 1, h2raw.block(*fields)) + frame(DATA, END_STREAM, 1, message()))
    assert conn.answer(1).fields[":status"] == "415"


@pytest.mark.parametrize("name, values", [("grpc-timeout", ("1S", "5S")), ("grpc-timeout", ("1S", "1S")), ("grpc-encoding", ("gzip", "identity")),
                                          ("content-type", ("application/grpc", "application/grpc"))])
def test_a_field_that_comes_twice_is_refused_by_name(conn, name, values):
    fields = [f for f in request_fields() if f[0] != name] + [(name, v) for v in values]
    conn.send(frame(HEADERS, END_HEADERS, 1, h2raw.block(*fields)) + frame(DATA, END_STREAM, 1, message()))
    a = conn.answer(1)
    assert a.status == native.INVALID_ARGUMENT and name in a.text and "twice" in a.text
    conn.serves(3)


def test_a_timeout_of_nothing_is_over(conn):
    for stream, value in ((1, "0n"), (3, "0H"), (5, "00000000m")):
        conn.send(call(stream, extra=[("grpc-timeout", value)]))
        assert conn.answer(stream).status in (0, native.DEADLINE_EXCEEDED), value
    conn.serves(7)


def test_spaces_around_a_value_are_taken_off(conn):
    conn.send(call(1, extra=[("x-name", " padded\t"), ("grpc-timeout", " 10S ")]))
    assert conn.answer(1).status == 0
    conn.serves(3)


@pytest.mark.parametrize("listed, taken", [("x-gzipper", False), ("identity,deflate", False), ("gzip", True), ("identity, gzip", True),
                                           ("identity,GZIP;q=1", True), ("notgzip,zgzip", False)])
def test_gzip_is_taken_where_the_list_names_it(interop_server, listed, taken):
    """grpc.testing's UnaryCall, asked for a compressed answer of 100 bytes: "x-gzipper" is not gzip."""
    with Connection(interop_server) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block("/grpc.testing.TestService/UnaryCall", [("grpc-accept-encoding", listed)]))
               + frame(DATA, END_STREAM, 1, message(b"\x10\x64\x32\x02\x08\x01")))
        a = c.answer(1)
        assert a.status == 0
        assert (a.fields.get("grpc-encoding") == "gzip") == taken


# Messages.

def compressed(conn, stream, payload):
    conn.send(frame(HEADERS, END_HEADERS, stream, h2raw.request_block(extra=[("grpc-encoding", "gzip")]))
              + frame(DATA, END_STREAM, stream, message(payload, compressed=1)))
    return conn.answer(stream)


def test_a_compressed_message_of_nothing_is_an_empty_message(conn):
    assert compressed(conn, 1, b"").status == 0
    assert compressed(conn, 3, gzip.compress(b"")).status == 0
    conn.serves(5)


@pytest.mark.parametrize("payload", [b"x", b"\x1f\x8b", b"not gzip at all, but long enough to be", gzip.compress(b"\x10\x01")[:-1]])
def test_what_cannot_be_inflated_is_internal(conn, payload):
    a = compressed(conn, 1, payload)
    assert a.status == native.INTERNAL and "gzip" in a.text
    conn.serves(3)


def test_a_compressed_message_of_an_identity_call_is_internal(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, h2raw.request_block(extra=[("grpc-encoding", "identity")]))
              + frame(DATA, END_STREAM, 1, message(gzip.compress(b""), compressed=1)))
    a = conn.answer(1)
    assert a.status == native.INTERNAL and "grpc-encoding" in a.text


GROUP = b"\xa3\x06\x08\x01\x1b\x12\x02ab\x1c\xa4\x06"  # field 100, with group 3 in it


@pytest.mark.parametrize("protocol", ["grpc", "native"])
def test_an_unknown_group_is_an_unknown_field(server, connect, stubs, protocol):
    if protocol == "grpc":
        channel = connect(server).channel
        raw = channel.unary_unary("/ordinal.v1.Ids/Next")(GROUP + b"\x10\x02" + GROUP)
        assert stubs.pb.NextReply.FromString(raw).count == 2
        raw = channel.unary_unary("/grpc.health.v1.Health/Check")(GROUP + b"\x0a\x00")
        assert stubs.health.HealthCheckResponse.FromString(raw).status == stubs.health.HealthCheckResponse.SERVING
        raw = channel.unary_unary("/ordinal.v1.Feed/Publish")(GROUP + stubs.pb.PublishRequest(stream="g", payload=b"x").SerializeToString())
        assert stubs.pb.PublishReply.FromString(raw).offset == 1
        with pytest.raises(grpc.RpcError) as e:
            channel.unary_unary("/ordinal.v1.Ids/Next")(b"\xa3\x06\x08\x01")
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    else:
        with native.Client(server) as c:
            assert native.next_reply(c.call(GROUP + b"\x10\x02").payload)[1] == 2
