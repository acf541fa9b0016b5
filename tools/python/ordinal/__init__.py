"""A client of Ordinal: IDs that rise, and frames that are kept, in order, and can be read again. No knowledge of RPC is needed.

    import ordinal

    ordinal.next("orders", count=3)                     # [1, 2, 3]
    ordinal.publish("ticks", 7, b"payload")             # Published(offset=1, ...): it is on disk
    for payload in ordinal.subscribe("ticks", since=5): # history in order, then what comes
        print(payload.seq_no, payload)                  # a payload is bytes, and knows its seq_no, offset, timestamp

    with ordinal.Client("10.0.0.5:50051") as client:    # another server than $ORDINAL_SERVER; a token; TLS
        client.run("ticks", publish=[b"a", b"b"], on_frame=print)

Lost connections are made again, and everything goes on where it was: nothing twice, nothing missed. What goes wrong for good is an
ordinal.Error. README.md beside this package says more.
"""

import os
from pkgutil import extend_path

from ._client import Client, Payload, Published, RunResult, Subscription
from ._errors import Damaged, Denied, Error, Invalid, LimitReached, NewIncarnation, NotFound, OutcomeUnknown, TimedOut, Unreachable

# Stubs that somebody has generated live in ordinal.v1; both can be had.
__path__ = extend_path(__path__, __name__)

__all__ = ["Client", "Damaged", "Denied", "Error", "Invalid", "LimitReached", "NewIncarnation", "NotFound", "OutcomeUnknown", "Payload",
           "Published", "RunResult", "Subscription", "TimedOut", "Unreachable", "next", "publish", "stats", "subscribe"]

_clients = {}


def _of(server):
    server = server or os.environ.get("ORDINAL_SERVER") or "127.0.0.1:50051"
    if server not in _clients:
        _clients[server] = Client(server)
    return _clients[server]


def next(sequence="", count=None, *, server=None):  # noqa: A001
    """The next ID of a sequence; with `count`, a list of so many, which rise."""
    return _of(server).next(sequence, count)


def publish(stream, seq_no, data, *, timestamp=0, server=None):
    """Publishes a frame, and returns when it is as durable as its stream promises: a Published."""
    return _of(server).publish(stream, seq_no, data, timestamp=timestamp)


def subscribe(stream, since=0, *, slow="wait", until_caught_up=False, on_gap=None, on_incarnation=None, wait=False, server=None):
    """The payloads of a stream's frames whose seq_no is `since` or above, as Client.subscribe."""
    return _of(server).subscribe(stream, since, slow=slow, until_caught_up=until_caught_up, on_gap=on_gap, on_incarnation=on_incarnation,
                                 wait=wait)


def stats(format="json", *, server=None):  # noqa: A002
    """What the server is doing, as Client.stats."""
    return _of(server).stats(format)
