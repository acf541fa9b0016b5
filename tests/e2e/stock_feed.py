"""A Feed on a stock grpcio server, in memory: what clients are tested against when they should meet a server that misbehaves."""

import threading
from concurrent import futures

import grpc


def crc32c_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class StockFeed:
    """.address; .frames: what was published. Faults: break_after = [n, …]: the nth Subscribe is ended with UNAVAILABLE after that many frames (None:
    never); break_publish_after likewise counts answers of PublishMany; spoil(frame, bytes): bytes to send instead; publish_while(n): called
    after the nth history frame of a Subscribe was sent."""

    def __init__(self, stubs):
        self.pb = stubs.pb
        self.cond = threading.Condition()
        self.frames = []
        self.numbers = {}
        self.asked = []
        self.break_after, self.break_publish_after = [], []
        self.spoil = lambda frame, data: data
        self.publish_while = lambda n: None
        self.going_away = False
        handlers = {
            "Publish": grpc.unary_unary_rpc_method_handler(
                self._publish, stubs.pb.PublishRequest.FromString, stubs.pb.PublishReply.SerializeToString),
            "PublishMany": grpc.stream_stream_rpc_method_handler(
                self._publish_many, stubs.pb.PublishRequest.FromString, stubs.pb.PublishReply.SerializeToString),
            "Subscribe": grpc.unary_stream_rpc_method_handler(
                self._subscribe, stubs.pb.SubscribeRequest.FromString, lambda data: data),
        }
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ordinal.v1.Feed", handlers)])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def stop(self):
        with self.cond:
            self.going_away = True
            self.cond.notify_all()
        self.server.stop(None).wait()

    def add(self, seq_no, payload, timestamp=1, publisher="", publisher_seq=0):
        """Publishes; (frame, whether it was there before)."""
        with self.cond:
            known = self.numbers.get((publisher, publisher_seq)) if publisher else None
            if known:
                return known, True
            frame = self.pb.Frame(seq_no=seq_no, payload=payload, timestamp=timestamp, offset=len(self.frames) + 1, publisher=publisher,
                                  publisher_seq=publisher_seq)
            self.frames.append(frame)
            if publisher:
                self.numbers[publisher, publisher_seq] = frame
            self.cond.notify_all()
            return frame, False

    def _answer(self, request, context):
        if request.payload == b"refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the payload is not liked")
        frame, duplicate = self.add(request.seq_no, request.payload, request.timestamp or 1, request.publisher, request.publisher_seq)
        return self.pb.PublishReply(offset=frame.offset, timestamp=frame.timestamp, duplicate=duplicate)

    def _publish(self, request, context):
        if self.break_publish_after and self.break_publish_after.pop(0) is not None:
            self._answer(request, context)
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
        return self._answer(request, context)

    def _publish_many(self, requests, context):
        limit = self.break_publish_after.pop(0) if self.break_publish_after else None
        for n, request in enumerate(requests):
            reply = self._answer(request, context)
            if n == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            yield reply

    @staticmethod
    def encode(frame):
        data = frame.SerializeToString()
        return data + b"\x7d" + crc32c(data).to_bytes(4, "little")

    def _data(self, frame):
        return self.spoil(frame, self.encode(frame))

    def _mark(self, mark, offset):
        return self._data(self.pb.Frame(mark=mark, offset=offset))

    def _subscribe(self, request, context):
        self.asked.append(request)
        limit = self.break_after.pop(0) if self.break_after else None
        sent = 0
        for data in self._feed(request, context):
            if sent == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            sent += 1
            yield data

    def _feed(self, request, context):
        since, at = request.replay_seq_no_start, request.resume_offset - 1
        edge = len(self.frames)
        if request.resume_offset == 0:
            at = edge
            history = sorted(self.frames[:edge], key=lambda f: (f.seq_no, f.timestamp, f.offset))
            for n, frame in enumerate(f for f in history if f.seq_no >= since):
                yield self._data(frame)
                self.publish_while(n)
        if at >= edge:
            yield self._mark("MARK_CAUGHT_UP", edge)
        while context.is_active():
            with self.cond:
                while at >= len(self.frames) and not self.going_away and context.is_active():
                    self.cond.wait(0.05)
                if at >= len(self.frames) and self.going_away:
                    break
                new, at = self.frames[at:], max(at, len(self.frames))
            for frame in new:
                if frame.seq_no >= since:
                    yield self._data(frame)
                if request.resume_offset and frame.offset == edge:
                    yield self._mark("MARK_CAUGHT_UP", edge)
        yield self._mark("MARK_GOING_AWAY", at + 1)
