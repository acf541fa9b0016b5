"""Client, and what it returns."""

import json
import logging
import os
import random
import threading
import time
from collections import namedtuple

import grpc

from . import _crc, _errors
from ._outbox import Outbox
from ._proto import pb, pb_stats
from ._resume import Disordered, Resume

log = logging.getLogger("ordinal")

_SLOW = {"wait": 0, "drop": 1, "disconnect": 2}
_STATS_FORMATS = {"text": 0, "json": 1, "prometheus": 2}
_DURABILITY = {0: "fsync", 1: "write", 2: "memory"}
_ID_MAX = 2**64
_OFFSET_MAX = 2**62  # no stream has more
_TIMEOUT_MAX_S = 10**8  # a patience above that is without end
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 0.25
_PAUSE_MISSING_S = 1.0  # at most, before a stream that is not there is asked for again
_KEEPALIVE_S = 0.5, 10.0  # bounds: a silent server is asked for a sign of life after an eighth of the patience
_CONNECT_S = 0.2, 3.0  # bounds: an attempt to connect may take a quarter of the patience


def _share(patience, parts, bounds):
    """So many milliseconds of the patience."""
    return round(min(max(patience / parts, bounds[0]), bounds[1]) * 1000)


def _channel_options(patience):
    keepalive_ms = _share(patience, 8, _KEEPALIVE_S)
    return (
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # A connection of one's own, which is tried again soon.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", _share(patience, 4, _CONNECT_S)),  # how long one attempt may take, in truth
        # After a loss the name is looked up again before the next attempt, and by default only 30 seconds after the last time.
        ("grpc.dns_min_time_between_resolutions_ms", 100),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.max_pings_without_data", 0),
    )


class Published(namedtuple("Published", "offset timestamp durability duplicate")):
    """A frame's place in its stream, its time in Unix nanoseconds, what it survives ("fsync": a power cut; "write": a crash of the server; "memory": nothing),
    and whether it had been published before. `incarnation` is the number of this life of the stream: when it is another one than before, the frames
    that were published before are gone. 0: the server does not tell."""

    incarnation = 0

RunResult = namedtuple("RunResult", "published received")
RunResult.__doc__ = "How many frames Client.run has published, and how many it was given."


class Payload(bytes):
    """A frame's payload, with the rest of the frame: stream, seq_no, offset, timestamp (Unix nanoseconds), publisher, publisher_seq."""

    @classmethod
    def _of(cls, stream, frame):
        self = cls(frame.payload)
        self.stream = stream
        self.seq_no, self.offset, self.timestamp = frame.seq_no, frame.offset, frame.timestamp
        self.publisher, self.publisher_seq = frame.publisher, frame.publisher_seq
        return self


class _Patience:
    """Pauses between attempts, until one goes well or patience has run out."""

    def __init__(self, seconds, pause_max=_PAUSE_MAX_S):
        self.seconds = seconds
        self.pause_max = pause_max
        self.well()

    def well(self):
        self.since = None
        self.pause = 0

    def wait(self, error, stopped=None):
        """After a failed attempt; raises when it was the last."""
        now = time.monotonic()
        # A silent connection was lost before keepalive found that out.
        silence = _share(self.seconds, 8, _KEEPALIVE_S) / 500 if "keepalive" in str(error) else 0
        self.since = self.since or now - silence
        left = self.since + self.seconds - now
        if left <= 0:
            raise error
        if stopped:
            stopped.wait(min(self.pause, left))
        else:
            time.sleep(min(self.pause, left))
        self.pause = min(max(self.pause * 2, _PAUSE_FIRST_S), self.pause_max)


class _Deadline:
    """Of a call, with all of its attempts: the patience, from its beginning. A patience of 0 is one attempt."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.patience = _Patience(seconds)
        self.patience.since = time.monotonic()
        self.away = None  # the Error of the last attempt that did not find the server

    def timeout(self):
        if self.seconds <= 0 or self.seconds > _TIMEOUT_MAX_S:
            return None
        return max(self.patience.since + self.seconds - time.monotonic(), 0.001)

    def is_over(self, error):
        return error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and self.timeout() == 0.001

    def error(self):
        """Of a call that the deadline has ended."""
        return self.away or _errors.TimedOut(f"the server has not answered within the patience of {self.seconds:g} s")

    def again(self, error):
        self.away = error
        self.patience.wait(error)


class _Pieces:
    """How many IDs to ask for at once, of a server that may grant fewer (COUNT_MAX). Which limit a refusal is for is not looked at: after the first one a
    single ID is asked for, which is refused too where it is not about the number, and from there pieces double up to what was refused."""

    MOST = 1_000_000

    def __init__(self):
        self.now, self.refused, self.granted = self.MOST, None, False

    def grant(self, count):
        self.granted = True
        if self.refused and count == self.now and count * 2 < self.refused:
            self.now = min(count * 2, self.MOST)

    def refuse(self, count):
        """False: there is no smaller piece to try."""
        self.refused = count
        self.now = max(count // 2, 1) if self.granted else 1
        return count > 1


def _check_number(name, value, least, most):
    if not least <= value <= most:
        raise ValueError(f"{name} is from {least} to {most}, not {value}")


def _is_away(error):
    """Whether it is worth trying again: the server is not there, or about to go."""
    return error.code() == grpc.StatusCode.UNAVAILABLE


class Client:
    """A server, and a connection to it that is made when it is needed, and again when it is lost.

    server: "host:port" (default: $ORDINAL_SERVER, else 127.0.0.1:50051). token: for servers that want one (default: $ORDINAL_TOKEN).
    tls: True, or the bytes of the certificate authority to trust. patience: for how many seconds a server may stay away before
    Unreachable, and a call may go unanswered before TimedOut.
    again: publish again after a lost connection, which is harmless, because frames are sent under a name made up for this client, and
    numbered; without, a lost connection is an OutcomeUnknown. verify: check the CRC of each frame that is read; slow, in Python.

    May be used by several threads at once."""

    def __init__(self, server=None, *, token=None, tls=None, patience=60.0, again=True, verify=False):
        if not patience >= 0:
            raise ValueError(f"patience is a number of seconds, 0 or more, not {patience!r}")
        self.server = server or os.environ.get("ORDINAL_SERVER") or "127.0.0.1:50051"
        self.patience = patience
        self.verify = verify
        self.publisher = f"py-{os.urandom(6).hex()}" if again else ""
        self._lock = threading.Lock()
        self._numbers = {}  # of each stream: the publisher's last number
        self._incarnations = {}  # of each ("stream" or "sequence", name): the last one that a reply has told
        token = token or os.environ.get("ORDINAL_TOKEN")
        self._metadata = [("authorization", f"Bearer {token}")] if token else None
        self._channel = self._dial(tls)
        ids, feed, stats = "/ordinal.v1.Ids/", "/ordinal.v1.Feed/", "/ordinal.v1.Stats/"
        self._stats = self._channel.unary_unary(stats + "Get", pb_stats.StatsRequest.SerializeToString, pb_stats.StatsReply.FromString)
        self._next = self._channel.unary_unary(ids + "Next", pb.NextRequest.SerializeToString, pb.NextReply.FromString)
        self._publish = self._channel.unary_unary(feed + "Publish", pb.PublishRequest.SerializeToString, pb.PublishReply.FromString)
        self._publish_many = self._channel.stream_stream(feed + "PublishMany", pb.PublishRequest.SerializeToString,
                                                         pb.PublishReply.FromString)
        self._subscribe = self._channel.unary_stream(feed + "Subscribe", pb.SubscribeRequest.SerializeToString, None)

    def _dial(self, tls):
        options = _channel_options(self.patience)
        if not tls:
            return grpc.insecure_channel(self.server, options=options)
        trusted = grpc.ssl_channel_credentials(None if tls is True else tls)
        return grpc.secure_channel(self.server, trusted, options=options)

    def close(self):
        """Ends the connection, and with it whatever is under way."""
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _call(self, method, request):
        """A call that may be made again, until it is answered."""
        deadline = _Deadline(self.patience)
        while True:
            try:
                return method(request, metadata=self._metadata, timeout=deadline.timeout())
            except grpc.RpcError as e:
                if deadline.is_over(e):
                    raise deadline.error() from None
                if not _is_away(e):
                    raise _errors.from_rpc(e) from None
                deadline.again(_errors.from_rpc(e))

    def next(self, sequence="", count=None):
        """The next ID of a sequence; with `count`, a list of so many, 1 or more, which rise."""
        if count is not None and count < 1:
            raise ValueError(f"count is at least 1, not {count}")
        ids, pieces = [], _Pieces()
        while len(ids) < (count or 1):
            piece = min((count or 1) - len(ids), pieces.now)
            try:
                reply = self._call(self._next, pb.NextRequest(sequence=sequence, count=piece))
            except _errors.LimitReached:
                if not pieces.refuse(piece):
                    raise
                continue
            if not 1 <= reply.count <= piece or not (ids[-1] if ids else 0) < reply.first <= _ID_MAX - reply.count:
                raise _errors.Error(f"the server's answer is no {piece} IDs that rise: first {reply.first}, count {reply.count}")
            if not self._note("sequence", sequence, reply.incarnation) and ids:
                raise _errors.NewIncarnation(f"sequence {sequence!r} has begun another incarnation between two pieces of one list")
            pieces.grant(piece)
            ids.extend(range(reply.first, reply.first + reply.count))
        return ids[0] if count is None else ids

    def stats(self, format="json"):  # noqa: A002
        """What the server is doing: a dict; with format "text", a str for people; with "prometheus", a str in Prometheus' text format. A server with rules of
        access wants the right `stats`; one without leaves out clients' addresses."""
        if format not in _STATS_FORMATS:
            raise ValueError(f"format is one of {', '.join(_STATS_FORMATS)}, not {format!r}")
        body = self._call(self._stats, pb_stats.StatsRequest(format=_STATS_FORMATS[format])).body.decode()
        return json.loads(body) if format == "json" else body

    def incarnation(self, sequence=""):
        """The number of this life of a sequence, as the last reply has told it: IDs are unique, and rise, as long as it stays the same. 0: not known."""
        return self._incarnations.get(("sequence", sequence), 0)

    def _note(self, kind, name, incarnation):
        """A reply has told it. False, and a warning in the log: it is another one than before."""
        with self._lock:
            was = self._incarnations.get((kind, name), 0)
            self._incarnations[kind, name] = incarnation or was
        if not was or not incarnation or was == incarnation:
            return True
        gone = "the frames that were published before are gone" if kind == "stream" else "it may give IDs again that it has given before"
        log.warning("%s %r has begun another incarnation, %d (it was %d): %s", kind, name, incarnation, was, gone)
        return False

    # ---- publishing ----

    def _number(self, stream):
        with self._lock:
            self._numbers[stream] = self._numbers.get(stream, 0) + 1
            return self._numbers[stream]

    def _request(self, stream, seq_no, data, timestamp, publisher, number):
        _check_number("seq_no", seq_no, 0, _ID_MAX - 1)
        _check_number("timestamp", timestamp, -2**63, 2**63 - 1)
        if publisher:
            _check_number("number", number, 1, _ID_MAX - 1)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a payload is bytes, not {type(data).__name__}")
        return pb.PublishRequest(stream=stream, seq_no=seq_no, payload=bytes(data), timestamp=timestamp, publisher=publisher,
                                 publisher_seq=number if publisher else 0)

    def publish(self, stream, seq_no, data, *, timestamp=0, publisher=None, number=None):
        """Publishes a frame, and returns when it is as durable as its stream promises: a Published. timestamp: Unix nanoseconds; 0: the server's
        clock. publisher and number: a name and a number of one's own, from 1, that make publishing again harmless also in another process: what was
        published before gets its first answer again."""
        if (publisher is None) != (number is None):
            raise ValueError("publisher and number go together")
        if publisher is None:
            publisher, number = self.publisher, self._number(stream)
        request = self._request(stream, seq_no, data, timestamp, publisher, number)
        if publisher:
            return self._published(stream, self._call(self._publish, request))
        deadline = _Deadline(self.patience)
        try:
            return self._published(stream, self._publish(request, metadata=self._metadata, timeout=deadline.timeout()))
        except grpc.RpcError as e:
            if deadline.is_over(e):
                raise _errors.OutcomeUnknown(str(deadline.error())) from None
            if _is_away(e):
                raise _errors.OutcomeUnknown(f"the connection broke before the answer: {e.details()}") from None
            raise _errors.from_rpc(e) from None

    def publish_many(self, stream, items, *, since=1):
        """Publishes each of `items` without waiting for the one before, and yields a Published for each, in order. An item is bytes (its
        seq_no is one above the last; the first is `since`), or (seq_no, bytes), or (seq_no, bytes, timestamp)."""
        requests = self._requests(stream, items, since, self.publisher)
        yield from (self._published(stream, reply) for _, reply in self._send_many(requests, self.publisher))

    def _published(self, stream, reply):
        if not 1 <= reply.offset <= _OFFSET_MAX:
            raise _errors.Error(f"the server's answer has an impossible offset: {reply.offset}")
        self._note("stream", stream, reply.incarnation)
        published = Published(reply.offset, reply.timestamp, _DURABILITY.get(reply.durability, "unknown"), reply.duplicate)
        published.incarnation = reply.incarnation
        return published

    def _requests(self, stream, items, since, publisher):
        seq_no = since - 1
        for item in items:
            data, timestamp = item, 0
            if isinstance(item, tuple):
                seq_no, data, *rest = item
                timestamp = rest[0] if rest else 0
            else:
                seq_no += 1
            yield self._request(stream, seq_no, data, timestamp, publisher, self._number(stream))

    def _send_many(self, requests, publisher, outbox=None):
        """(request, reply) for each request."""
        outbox = outbox or Outbox()
        outbox.fill(requests)
        patience = _Patience(self.patience)
        try:
            while not outbox.is_done():
                call = self._publish_many(outbox.begin(), metadata=self._metadata)
                failure = None
                try:
                    for reply in call:
                        patience.well()
                        yield outbox.answered(), reply
                except grpc.RpcError as e:
                    if not _is_away(e) and not outbox.is_stopped():
                        raise _errors.from_rpc(e) from None
                    failure = e
                finally:
                    outbox.end()
                    call.cancel()
                if outbox.is_stopped() or outbox.is_done():
                    break
                if not publisher and outbox.unanswered():
                    raise _errors.OutcomeUnknown("the connection broke before the answers", outbox.unanswered())
                patience.wait(_errors.from_rpc(failure) if failure else _errors.Unreachable("the server ends every call"))
            outbox.raise_failure()
        finally:
            outbox.stop()

    # ---- subscribing ----

    def subscribe(self, stream, since=0, *, slow="wait", until_caught_up=False, on_gap=None, on_incarnation=None, reorder=0, wait=False):
        """A Subscription: iterate over it for the payloads of a stream's frames whose seq_no is `since` or above, history in the order of
        (seq_no, timestamp, offset), then what comes, without end; or with until_caught_up, history alone.

        slow: what the server does when this reader is slow: "wait" keeps its place; "drop" leaves out the oldest; "disconnect" ends with
        LimitReached. on_gap(first, last) is told the offsets that are gone (dropped, or no longer kept); without it a warning is logged.
        on_incarnation(number, was): the frames that were read are not the stream's any more, because it has begun another incarnation (it is kept in memory and the
        server was started again, or it was lost or restored); reading goes on from the beginning of that one. Without it that is NewIncarnation. reorder: seconds for which frames that
        come live are held, to be put in the order of (seq_no, timestamp). wait: a stream that is not there, where the server makes none for a reader, is
        waited for, without end; otherwise that is NotFound."""
        _check_number("since", since, 0, _ID_MAX - 1)
        _check_number("reorder", reorder, 0, 60)
        return Subscription(self, stream, since, _SLOW[slow], until_caught_up, on_gap, round(reorder * 1000), wait, on_incarnation)

    # ---- both ----

    def run(self, stream, publish=None, on_frame=None, *, since=0, first_seq_no=None, slow="wait", on_gap=None, on_incarnation=None):
        """Publishes and subscribes at once, and waits for both; returns a RunResult.

        publish: items as of publish_many, or a function that is called for the next item until it returns None. on_frame is called with each
        Payload, its own and others'; if it returns True, that is the end of it all. Otherwise the end is when all that was published here has
        come back (as far as its seq_no is `since` or above), or, with nothing to publish, never. first_seq_no: of bytes without one (default:
        `since`, or 1)."""
        return _Run(self, stream, publish, on_frame, since, since or 1 if first_seq_no is None else first_seq_no, slow, on_gap, on_incarnation).run()


def _is_possible(frame):
    if frame.mark == pb.MARK_GAP:
        return 1 <= frame.gap_from <= frame.gap_to <= _OFFSET_MAX
    return (1 if frame.mark == pb.MARK_NONE else 0) <= frame.offset <= _OFFSET_MAX


class Subscription:
    """Payloads, one after another. close() ends it, from any thread."""

    def __init__(self, client, stream, since, slow, until_caught_up, on_gap, reorder_ms, wait=False, on_incarnation=None):
        self._client, self._stream, self._slow, self._until_caught_up, self._on_gap = client, stream, slow, until_caught_up, on_gap
        self._on_incarnation = on_incarnation
        self._delivered = False  # some frame
        self._reset = None  # what was read is gone: the incarnation that it was of; to be told when it is known what there is now
        self._resume = Resume(since)
        self._resume.late = reorder_ms > 0
        self._reorder_ms = reorder_ms
        self._wait = _Patience(float("inf"), _PAUSE_MISSING_S) if wait else None  # for the stream to be made
        self._stopped = threading.Event()
        self._call = None
        self._payloads = self._read()
        self.caught_up = False  # history has been given

    @property
    def incarnation(self):
        """The number of this life of the stream; 0: not known (yet)."""
        return self._resume.incarnation

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._payloads)

    def close(self):
        self._stopped.set()
        call = self._call
        if call:
            call.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _read(self):
        patience = _Patience(self._client.patience)
        while not self._stopped.is_set():
            since, offset = self._resume.begin()
            request = pb.SubscribeRequest(stream=self._stream, replay_seq_no_start=since, slow=self._slow, resume_offset=offset,
                                          reorder_ms=self._reorder_ms, incarnation=self._resume.incarnation, mark_begin=True)
            call = self._call = self._client._subscribe(request, metadata=self._client._metadata)
            if self._stopped.is_set():
                call.cancel()
            failure, again = _errors.Unreachable("the server ends every subscription"), False
            try:
                for message in call:
                    patience.well()
                    frame = self._parse(message)
                    if frame.mark == pb.MARK_NONE:
                        if self._resume.is_new(frame.seq_no, frame.timestamp, frame.offset):
                            self._delivered = True
                            yield Payload._of(self._stream, frame)
                    elif self._is_end(frame):
                        return
                    elif frame.mark == pb.MARK_CAUGHT_UP and not self.caught_up:
                        again = True
                        break
                    if self._stopped.is_set():
                        return
            except grpc.RpcError as e:
                if self._stopped.is_set():
                    return
                failure = _errors.from_rpc(e)
                if e.code() == grpc.StatusCode.OUT_OF_RANGE and self._resume.goes_on():
                    self._begin_anew(failure)
                    again = True
                elif self._wait and isinstance(failure, _errors.NotFound):
                    self._wait.wait(failure, self._stopped)
                    again = True
                elif not _is_away(e):
                    raise failure from None
            except Disordered as e:
                raise _errors.Error(f"the server broke its promise: {e}") from None
            finally:
                call.cancel()
            self._resume.broke()
            if not again:
                patience.wait(failure, self._stopped)

    def _begin_anew(self, failure):
        """The stream does not have the frames any more that were read."""
        was = self._resume.incarnation
        if self._delivered and not self._on_incarnation:
            raise _errors.NewIncarnation(f"stream {self._stream!r}: {failure}", was) from None
        self._reset = was if self._delivered else None
        self._delivered = self.caught_up = False
        self._resume.restart()

    def _parse(self, message):
        if self._client.verify and not _crc.is_whole(message):
            raise _errors.Damaged("a frame's CRC does not match its bytes")
        frame = pb.Frame.FromString(message)
        if not _is_possible(frame):
            raise _errors.Error(f"the server sent a frame with an impossible offset: {str(frame)[:200]}")
        return frame

    def _is_end(self, frame):
        """Takes in a mark. True: nothing more is wanted."""
        self._resume.note_incarnation(frame.incarnation)
        if self._reset is not None:
            was, self._reset = self._reset, None
            self._on_incarnation(frame.incarnation, was)
        if frame.mark == pb.MARK_CAUGHT_UP:
            self.caught_up = self._resume.caught_up()
            return self.caught_up and self._until_caught_up
        if frame.mark == pb.MARK_GAP:
            gone = self._resume.gap(frame.gap_from, frame.gap_to)
            if gone and self._on_gap:
                self._on_gap(*gone)
            elif gone:
                log.warning("stream %r: offsets %d to %d are gone", self._stream, *gone)
        elif frame.mark == pb.MARK_GOING_AWAY:
            self._resume.going_away(frame.offset)
        return False


class _Run:
    """Client.run: the calling thread publishes, another one subscribes. How many frames of its own have come back is known by the name that they
    were published under, which is this run's alone."""

    def __init__(self, client, stream, publish, on_frame, since, first_seq_no, slow, on_gap, on_incarnation):
        self.client, self.stream, self.since = client, stream, since
        self.on_frame = on_frame
        self.publisher = f"py-{random.SystemRandom().getrandbits(64):x}"
        self.subscription = client.subscribe(stream, since, slow=slow, on_gap=on_gap, on_incarnation=on_incarnation)
        self.outbox = Outbox()
        items = iter(publish, None) if callable(publish) else publish
        self.requests = None if publish is None else client._requests(stream, items, first_seq_no, self.publisher)
        self.lock = threading.Lock()
        self.due = None  # own frames that must come back; None: not known yet
        self.own = self.received = self.published = 0
        self.failure = None

    def run(self):
        thread = threading.Thread(target=self._subscribe, daemon=True)
        thread.start()
        try:
            if self.requests is not None:
                self._publish()
            while thread.is_alive():
                thread.join(0.2)  # so that Ctrl-C is heard
        finally:
            self.subscription.close()
            self.outbox.stop()
        thread.join()
        if self.failure:
            raise self.failure
        return RunResult(self.published, self.received)

    def _publish(self):
        due = 0
        for request, reply in self.client._send_many(self.requests, self.publisher, self.outbox):
            self.published += 1
            due += request.seq_no >= self.since
        with self.lock:
            self.due = due
            done = self.own >= due
        if done:
            self.subscription.close()

    def _subscribe(self):
        try:
            for payload in self.subscription:
                self.received += 1
                with self.lock:
                    self.own += payload.publisher == self.publisher
                    done = self.due is not None and self.own >= self.due
                if self.on_frame and self.on_frame(payload) is True or done:
                    break
        except BaseException as e:  # the other thread raises it
            self.failure = e
        finally:
            self.outbox.stop()
            self.subscription.close()
