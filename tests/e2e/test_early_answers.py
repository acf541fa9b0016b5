"""Answers that come before their requests have ended, and resets that come after answers: rpc/h2_discard.c, and the budget of resets."""

import time

import pytest

import h2raw
import native
from appliance import wait_until
from h2raw import (CANCEL_ERROR, DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, TAKE_PATH, Connection, block, call, frame, message, request_block,
                   rst_stream)
from native import next_request

NOTHING = "/ordinal.v1.Ids/Nothing"
PIECE = frame(DATA, 0, 1, bytes(16000))


@pytest.fixture
def conn(server):
    with Connection(server) as c:
        yield c


def test_an_answer_waits_for_a_request_that_is_on_its_way(conn):
    """curl took an answer in the middle of its upload for an error, or waited for ever."""
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block(NOTHING)))
    for _ in range(400):  # 6.4 MB: more than the stream's window
        while conn.windows.get(1, 0) + 65535 < 16000 * (_ + 1) - 1_000_000:
            assert conn.get() is not None
        conn.send(PIECE)
    conn.send(frame(DATA, END_STREAM, 1, b"x"))
    a = conn.answer(1)
    assert a.status == native.UNIMPLEMENTED and a.reset is None
    conn.settle()
    assert a.late_reset is None
    conn.serves(3)


@pytest.mark.parametrize("head", ["unknown method", "no gRPC", "too large"])
def test_a_client_that_sends_nothing_more_is_answered(conn, head):
    """The answer waits for what is on its way, and not for a client that waits."""
    fields = {"unknown method": request_block(NOTHING), "no gRPC": block((":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "x")),
              "too large": request_block(extra=[("x" + str(i), "y") for i in range(120)])}[head]
    conn.send(frame(HEADERS, END_HEADERS, 1, fields))
    a = conn.answer(1)
    assert a.reset is None and (a.status or a.fields[":status"] == "415")
    conn.send(frame(DATA, END_STREAM, 1, b"late"))
    conn.serves(3)


@pytest.mark.parametrize("flag,extra,status", [(2, (), native.INTERNAL), (1, (), native.INTERNAL),
                                               (1, [("grpc-encoding", "zz")], native.UNIMPLEMENTED)],
                         ids=["flag", "no encoding", "unknown encoding"])
def test_a_refusal_within_a_message_waits_for_the_rest_of_it(conn, flag, extra, status):
    """curl waited for ever in 9 of 15 uploads of a message that was refused for its compressed flag."""
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block("/ordinal.v1.Feed/Publish", extra)) +
              frame(DATA, 0, 1, message(bytes(100), compressed=flag, length=1_000_000)) +
              frame(HEADERS, END_HEADERS | END_STREAM, 3, request_block(NOTHING)) +
              frame(DATA, END_STREAM, 1, b"x"))
    a = conn.answer(1)
    assert a.status == status and a.reset is None
    assert list(conn.answers) == [3, 1], "the answer came before the request had ended"
    conn.settle()
    assert a.late_reset is None
    conn.serves(5)


def test_an_upload_without_end_is_answered_and_stopped(conn):
    conn.send(frame(HEADERS, END_HEADERS, 1, request_block(NOTHING)))
    while 1 not in conn.answers or conn.answers[1].late_reset is None:
        if not conn.send_unless_closed(PIECE):
            break
        conn.sock.settimeout(0.001)
        try:
            while conn.get():
                pass
        except (TimeoutError, OSError):
            pass
        conn.sock.settimeout(60)
        assert conn.windows.get(1, 0) < 40_000_000
    assert conn.answers[1].status == native.UNIMPLEMENTED and conn.answers[1].late_reset == NO_ERROR
    conn.serves(3)


def test_a_refused_stream_of_requests_is_answered_at_once(daemon, tmp_path):
    """Its client may go on sending for ever."""
    rules = tmp_path / "access"
    rules.write_text("root cert:root admin\n")
    with Connection(daemon(SHARDS=1, ACCESS_FILE=rules)) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, request_block(TAKE_PATH)) + frame(DATA, 0, 1, message(next_request())))
        assert c.answer(1).status == 16
        c.send(frame(DATA, 0, 1, message(next_request())) * 100 + frame(DATA, END_STREAM, 1))
        c.sync()
        assert c.answers[1].late_reset is None


def test_more_refusals_than_are_kept_are_reset(conn):
    for i in range(300):
        conn.send(frame(HEADERS, END_HEADERS, 1 + 2 * i, request_block(NOTHING)))
    for i in range(300):
        assert conn.answer(1 + 2 * i).status == native.UNIMPLEMENTED
    conn.serves(1001)


def test_a_client_that_leaves_amid_its_upload_leaves_nothing(server):
    before = server.stats()["total"]
    for _ in range(20):
        with Connection(server) as c:
            c.send(frame(HEADERS, END_HEADERS, 1, request_block(NOTHING)) + PIECE)
            c.sync()
    wait_until(lambda: server.stats()["total"]["connections"] == before["connections"], "the connections to be gone")


def test_resets_after_answers_cost_nothing(server):
    """Several years of a popular JavaScript client send RST_STREAM(NO_ERROR) after each answer: GOAWAY came after 214 good calls."""
    with Connection(server) as c:
        c.send(frame(HEADERS, END_HEADERS, 1, request_block("/ordinal.v1.Feed/Subscribe")) + frame(DATA, END_STREAM, 1, message(b"\x0a\x05quiet")))
        for i in range(3000):
            stream = 3 + 2 * i
            c.send(call(stream))
            assert c.answer(stream).status == 0
            c.send(rst_stream(stream, NO_ERROR))
        c.sync()
        assert not c.goaways and not c.answers[1].ended


def test_deadlines_that_pass_at_the_client_are_no_attack(daemon):
    """200 calls that were reset after 0.2 s lost the connection, and a quiet subscription with it."""
    with Connection(daemon(SHARDS=1, PRODUCER_RATE=10)) as c:
        stream = 1
        for _ in range(4):
            first = stream
            for _ in range(50):
                c.send(call(stream, next_request("x", 1000)))
                stream += 2
            c.sync()
            time.sleep(0.2)
            for s in range(first, stream, 2):
                c.send(rst_stream(s, CANCEL_ERROR))
            c.sync()
        assert not c.goaways


def test_resets_of_streams_that_were_never_answered_are_counted(conn):
    """As before: what is begun and thrown away at once is charged."""
    for i in range(2000):
        if not conn.send_unless_closed(frame(HEADERS, END_HEADERS, 1 + 2 * i, request_block(TAKE_PATH)) + rst_stream(1 + 2 * i)):
            break
    conn.rest()
    assert conn.goaways and conn.goaways[-1].code == h2raw.ENHANCE_YOUR_CALM


def test_resets_of_one_closed_stream_without_end_are_counted(conn):
    conn.send(call(1))
    conn.answer(1)
    for _ in range(200):
        if not conn.send_unless_closed(rst_stream(1, NO_ERROR) * 100):
            break
    conn.rest()
    assert conn.goaways and conn.goaways[-1].code == h2raw.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("other_first", [False, True])
def test_an_answer_that_is_held_back_begins_with_the_size_update_if_it_is_the_first(server, other_first):
    """nginx, which has no header table, got its first refusals at once, and in the middle of its upload. The update of the table's size is in the
    first block that leaves, whichever that is, and in no other."""
    with Connection(server, HEADER_TABLE_SIZE=0) as c:
        c.sync()
        c.send(frame(HEADERS, END_HEADERS, 1, request_block(NOTHING)) + PIECE)
        if other_first:
            c.serves(3)
        c.send(PIECE + frame(DATA, END_STREAM, 1, b"x"))
        blocks = []
        while 1 not in c.answers or not c.answers[1].ended:
            f = c.get()
            if f.kind == HEADERS:
                blocks.append(f.payload[0] == 0x20)
        assert c.answers[1].status == native.UNIMPLEMENTED and blocks == [not other_first]
        c.serves(5)
