"""A subscription that survives its connections: what to ask for next, and which of the frames that come are new.

History (what was durable when it was asked for) comes in rising (seq_no, timestamp, offset); then CAUGHT_UP; then what came later, by
offset. While history is read, a frame at or below the last key was seen exactly if its offset is at or below the highest one seen: had it been
there before, it would have come. Frames published meanwhile with a seq_no below the one that history goes on from are fetched by offset after
it. tools/resume.c is the same in C, and tools/resume.h explains it at length.

All of this is about one incarnation of the stream, whose number comes with marks. When the server refuses to go on in it, everything begins anew: restart.
"""

import bisect

WINDOW = 65536  # live offsets that are remembered
BACK = 4096     # how far before its end a live connection that broke without a word is taken up again

HISTORY, CATCH_UP, LIVE = range(3)


class Disordered(Exception):
    """The server sent a frame twice on one connection, or in the wrong place."""


class Resume:
    def __init__(self, since):
        self.since = since
        self.incarnation = 0  # as marks have said; 0: not known
        self.phase = HISTORY
        self.key = None      # (seq_no, timestamp, offset): the last of history
        self.highest = 0     # offset of history
        self.bands = []      # [first seq_no, highest offset delivered of it and above]
        self.extras = set()  # offsets delivered below the key since it was reached
        self.edge = 0        # CATCH_UP: above this offset, nothing was delivered
        self.next = 0        # CATCH_UP, LIVE: one above the highest offset that has come
        self.live_from = 0
        self.came = set()    # LIVE: offsets from live_from on, the last WINDOW of them at least
        self.late = False
        self.told = 0        # GOING_AWAY's offset
        self.last = None     # of the connection at hand: its last key
        self.reached = False
        self.begin_next = 0

    def note_incarnation(self, incarnation):
        """A mark has come, with this incarnation; 0: the server does not tell."""
        self.incarnation = incarnation or self.incarnation

    def goes_on(self):
        """Whether the next connection goes on where something was, rather than to begin."""
        return self.incarnation != 0 or self.phase != HISTORY

    def restart(self):
        """Forgets all that was delivered: it is not what the stream has."""
        late = self.late
        self.__init__(self.since)
        self.late = late

    def begin(self):
        """What a new connection has to ask for: (replay_seq_no_start, resume_offset)."""
        self.last = None
        self.reached = self.key is None
        self.begin_next = self.next
        told, self.told = self.told, 0
        if self.phase == HISTORY:
            return (self.since if self.key is None else self.key[0]), 0
        if self.phase == CATCH_UP:
            return self.since, self.next
        back = WINDOW - 1 if self.late else BACK
        at = min(told, self.next) if told else max(self.next - back, 1)
        return self.since, max(at, self.live_from)

    def broke(self):
        """The connection has ended."""
        if self.phase != HISTORY or self.key is None or not self.reached:
            return
        if not self.bands:
            self.bands.append([self.since, 0])
        self.bands[-1][1] = self.highest
        if self.key[0] != self.bands[-1][0]:
            self.bands.append([self.key[0], self.highest])
        self.extras.clear()

    def is_new(self, seq_no, timestamp, offset):
        """Whether a frame is to be delivered."""
        if self.phase == HISTORY:
            return self._history((seq_no, timestamp, offset))
        if self.phase == CATCH_UP and offset > self.edge:
            self._set_live(self.edge + 1)
        if self.phase == LIVE:
            return self._live(offset)
        if offset < self.next:
            raise Disordered(f"offset {offset} came out of order")
        self.next = offset + 1
        band = bisect.bisect_right(self.bands, seq_no, key=lambda b: b[0]) - 1
        return offset > self.bands[band][1]

    def _history(self, key):
        if self.last is not None and key <= self.last:
            raise Disordered(f"offset {key[2]} came {'twice' if key == self.last else 'out of order'}")
        self.last = key
        if self.key is not None and key >= self.key:
            self.reached = True
        if key == self.key:
            return False
        offset = key[2]
        if self.key is not None and key < self.key:
            if offset <= self.bands[-1][1] or offset in self.extras:
                return False
            self.extras.add(offset)
        else:
            self.key = key
        self.highest = max(self.highest, offset)
        return True

    def _set_live(self, at):
        self.phase = LIVE
        self.live_from = self.next = at
        self.begin_next = max(self.begin_next, at)
        self.came.clear()

    def _live(self, offset):
        if offset >= self.next:
            self.next = offset + 1
            if len(self.came) > 2 * WINDOW:
                self.came = {o for o in self.came if self.next - o <= WINDOW}
        elif offset < self.live_from or self.next - offset > WINDOW:
            raise Disordered(f"offset {offset} came out of order")
        else:
            self.late |= offset not in self.came
        if offset in self.came:
            if offset >= self.begin_next:
                raise Disordered(f"offset {offset} came twice")
            return False
        self.came.add(offset)
        return True

    def caught_up(self):
        """CAUGHT_UP came. False: end this connection and begin another at once."""
        if self.phase == CATCH_UP:
            self._set_live(self.edge + 1)
        if self.phase == LIVE:
            return True
        if len(self.bands) <= 1:
            self._set_live(self.highest + 1)
            return True
        # What was asked for was less than everything, and so would be what comes live.
        self.edge = self.bands[-1][1] = self.highest
        self.phase = CATCH_UP
        self.next = self.bands[0][1] + 1
        return False

    def gap(self, first, last):
        """GAP came: the offsets of it that have not come before, (first, last), or None."""
        if self.phase == HISTORY:
            return first, last
        if last < self.next:
            return None
        first = max(first, self.next)
        if self.phase == CATCH_UP and last > self.edge:
            self._set_live(self.edge + 1)
        self.next = last + 1
        return first, last

    def going_away(self, offset):
        if self.phase == LIVE:
            self.told = offset
