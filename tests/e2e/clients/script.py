"""The script of README.md with grpcio."""

import collections
import json
import sys

import grpc


def field(number, text):
    return bytes([number * 8 + 2, len(text)]) + text


def code(call):
    try:
        call()
        return 0
    except grpc.RpcError as e:
        return e.code().value[0]


def main(address):
    # Channels of one process share connections unless told otherwise; proxies want an authority that they know.
    channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
    unary = channel.unary_unary
    quiet = channel.unary_stream("/ordinal.v1.Feed/Subscribe")(field(1, b"quiet"))
    next_ids = unary("/ordinal.v1.Ids/Next")
    out = {"calls": sum(code(lambda: next_ids(field(1, b"a"), timeout=60)) == 0 for _ in range(400))}
    late = collections.Counter()
    for _ in range(4):
        calls = [next_ids.future(field(1, b"slow") + b"\x10\xa0\x1f", timeout=0.2) for _ in range(50)]
        late.update(code(c.result) for c in calls)
    out["late"] = late
    take = channel.stream_stream("/ordinal.v1.Ids/Take")(iter([field(1, b"a")] * 3))
    out["take"] = {"replies": sum(1 for _ in take), "code": take.code().value[0]}
    out["unknown"] = code(lambda: unary("/ordinal.v1.Ids/Nothing")(b"", timeout=60))
    out["large"] = code(lambda: next_ids(b"\x7a\x80\x80\xc0\x02" + bytes(5 << 20), timeout=60))
    unary("/ordinal.v1.Feed/Publish")(field(1, b"quiet") + field(3, b"payload"), timeout=60)
    try:
        out["frames"] = ["payload" for frame in quiet if b"payload" in frame for _ in [quiet.cancel()]]
    except grpc.RpcError as e:
        out["frames"] = ["payload"] if e.code() == grpc.StatusCode.CANCELLED and quiet.cancelled() else [str(e)]
    print(json.dumps(out))


main(sys.argv[1])
