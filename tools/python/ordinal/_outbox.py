"""Requests on their way: from being made until they are answered, over as many calls as that takes.

One thread takes them from the iterable they come from; each call has an iterator of its own over what is not answered, which ends when the call does; answers
come in order. Requests are counted from 0: `first` is the oldest unanswered one."""

import threading
from collections import deque

MAX = 512  # unanswered; fewer than the numbers that a server remembers of a publisher


class Outbox:
    def __init__(self):
        self._cond = threading.Condition()
        self._pending = deque()
        self._first = 0
        self._sent = 0   # requests that the call at hand has taken
        self._call = 0   # which call that is
        self._ended = self._stopped = False
        self._failure = None

    def fill(self, requests):
        """Begins to take from the iterable."""
        threading.Thread(target=self._fill, args=(requests,), daemon=True).start()

    def _fill(self, requests):
        failure = None
        try:
            for request in requests:
                with self._cond:
                    self._cond.wait_for(lambda: len(self._pending) < MAX or self._stopped)
                    if self._stopped:
                        break
                    self._pending.append(request)
                    self._cond.notify_all()
        except BaseException as e:  # raise_failure raises it
            failure = e
        with self._cond:
            self._failure = failure
            self._ended = True
            self._cond.notify_all()

    def begin(self):
        """The requests of a new call: first what is unanswered. It ends when nothing more comes, or the call has ended."""
        with self._cond:
            self._call += 1
            self._sent = self._first
            return self._requests(self._call)

    def _requests(self, call):
        while True:
            with self._cond:
                self._cond.wait_for(lambda: self._sent < self._first + len(self._pending) or self._ended or self._stopped or self._call != call)
                if self._call != call or self._stopped or self._sent == self._first + len(self._pending):
                    return
                request = self._pending[self._sent - self._first]
                self._sent += 1
            yield request

    def end(self):
        """The call has ended."""
        with self._cond:
            self._call += 1
            self._cond.notify_all()

    def answered(self):
        """The oldest request is answered: returns it."""
        with self._cond:
            self._first += 1
            self._cond.notify_all()
            return self._pending.popleft()

    def unanswered(self):
        """How many requests the last call has taken without an answer."""
        with self._cond:
            return self._sent - self._first

    def stop(self):
        """Nothing more is wanted."""
        with self._cond:
            self._stopped = True
            self._cond.notify_all()

    def is_stopped(self):
        with self._cond:
            return self._stopped

    def is_done(self):
        """Whether all are answered. Waits until there is one that is not, or none will come."""
        with self._cond:
            self._cond.wait_for(lambda: self._pending or self._ended or self._stopped)
            return not self._pending

    def raise_failure(self):
        """Raises what the iterable raised."""
        if self._failure:
            raise self._failure
