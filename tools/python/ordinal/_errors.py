"""What can go wrong, in words that need no knowledge of RPC."""


class Error(Exception):
    """Whatever goes wrong with Ordinal."""


class Unreachable(Error):
    """The server cannot be reached, and patience has run out."""


class Invalid(Error):
    """The server does not take this request; the text names what is wrong with it."""


class LimitReached(Error):
    """A limit of the server; the text names it."""


class NotFound(Error):
    """There is no such sequence or stream, and none is made on first use (or not for this caller)."""


class Denied(Error):
    """The server wants a token, or this one may not do that."""


class TimedOut(Error):
    """No answer in time."""


class Damaged(Error):
    """Bytes are not what they were when they were written."""


class NewIncarnation(Error):
    """What was read of a stream, or got from a sequence, is not the server's any more: it has begun another incarnation. That is so for a stream that is
    kept in memory after each start of the server, and where a stream or a sequence was lost, restored or forgotten there. `was` is the number of the
    incarnation that was known before; 0: not known."""

    def __init__(self, text, was=0):
        super().__init__(text)
        self.was = was


class OutcomeUnknown(Error):
    """The connection broke before the answer, and without a publisher's name sending again is not safe: `frames` may or may not be kept."""

    def __init__(self, text, frames=1):
        super().__init__(text)
        self.frames = frames


_BY_CODE = {
    "UNAVAILABLE": Unreachable,
    "INVALID_ARGUMENT": Invalid,
    "FAILED_PRECONDITION": Invalid,
    "OUT_OF_RANGE": Invalid,
    "RESOURCE_EXHAUSTED": LimitReached,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": Denied,
    "PERMISSION_DENIED": Denied,
    "DEADLINE_EXCEEDED": TimedOut,
    "DATA_LOSS": Damaged,
}


def from_rpc(error):
    """The Error for a grpc.RpcError."""
    code = error.code().name
    text = error.details() or code
    return _BY_CODE.get(code, Error)(text)
