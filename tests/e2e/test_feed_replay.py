"""Replay against a model (feed_model.py), through the real daemon: random interleavings of publishes (rising, late, equal and falling keys; Publish and
PublishMany; native and gRPC), of subscriptions from anywhere that come, leave and vanish, of SIGTERM and of kill -9. Each subscription is checked frame
by frame, byte for byte, against what the model says it had to get; so is what is on disk after each life.

ORDINAL_SEED repeats a run's decisions (the machine's timing is its own); ORDINAL_HEAVY=1 runs a million frames as well."""

import contextlib
import os
import random
import shutil
import threading
import time

import pytest

import appliance
from feed_drivers import PUBLISHERS, SUBSCRIBERS, Gone, Keys, everything_after, frames_of, last_payload
from feed_model import Difference, Frames, Model, Observation, Sent

OPTIONS = {"SHARDS": 2, "FEED_SEGMENT_BYTES": 1 << 20, "FEED_MEMORY_BYTES": 1 << 20, "FEED_FRAME_MAX": 100_100}
SETTLE, TERM, KILL = "settle", "SIGTERM", "kill -9"


def as_it_is(raws):
    return raws


class Run:
    """A daemon, its streams' models, and what happens to them, a life after another. A life ends by everything being published and followed to the
    end, or by the end of the daemon in the midst of it; then it is checked."""

    def __init__(self, d, pb, seed, patterns=Keys.PATTERNS):
        self.d, self.pb, self.rng = d, pb, random.Random(seed)
        frames = Frames(pb)
        self.models = [Model(f"s{i}", frames) for i in range(len(patterns))]
        self.keys = dict(zip(self.models, map(Keys, patterns)))
        self.alone = {m: threading.Lock() for m in self.models if self.keys[m].pattern in ("rising", "mostly rising", "falling")}
        self.resumes = []  # (model, since, offset) of those who were sent away
        self.lives = self.deliveries = self.subscriptions = 0
        self.spoil = as_it_is
        self.errors, self.observations = [], []

    def _guard(self, work, *args):
        try:
            work(*args)
        except Gone:
            pass
        except Exception as e:  # pylint: disable=broad-except
            self.errors.append(e)

    def _thread(self, work, *args):
        t = threading.Thread(target=self._guard, args=(work, *args), daemon=True)
        t.start()
        return t

    def _plans(self, frames):
        plans, most = [], max(100, frames // 6)
        while frames > 0:
            model, kind = self.rng.choice(self.models), self.rng.choice(PUBLISHERS)
            n = min(frames, self.rng.randrange(1, 40 if kind.__name__ == "publish_grpc" else most))
            rng, who = random.Random(self.rng.random()), f"{self.lives}.{len(plans)}"
            plans.append((kind, self.d, model, frames_of(who, n, self.keys[model], rng, kind.__name__ != "publish_native"), self.pb, rng))
            frames -= n
        return plans

    def _publish(self, plans):
        """Several threads take turns at the list. Where order is to come from the plan, a stream has one publisher at a time."""
        while True:
            try:
                kind, d, model, *args = plans.pop(0)
            except IndexError:
                return
            with self.alone.get(model) or contextlib.nullcontext():
                kind(d, model, *args)

    def _observe(self, rng, model, since, resume, limit):
        o = Observation(f"life {self.lives}, {model.name} ({self.keys[model].pattern}), since {since}, resume {resume}", since, resume, model.edge)
        self.observations.append((model, o))
        rng.choice(SUBSCRIBERS)(self.d, model, o, limit, self.spoil, self.lives)

    def _subscribe(self, rng, resumes):
        """Some who leave, then one who stays until the end."""
        for resume in resumes:
            self._observe(rng, *resume, None)
        for _ in range(rng.randrange(4)):
            model = rng.choice(self.models)
            self._observe(rng, model, self.keys[model].start(rng), None, rng.choice((1, 100, 3000, 30_000)))
        model = rng.choice(self.models)
        resume = 1 + rng.randrange(model.edge + 1) if rng.randrange(4) == 0 else None
        self._observe(rng, model, self.keys[model].start(rng), resume, None)

    def live(self, frames, end, subscribers=6):
        plans = self._plans(frames)
        before, goal = sum(m.edge for m in self.models), self.rng.randrange(1, frames)
        publishers = [self._thread(self._publish, plans) for _ in range(4)]
        followers = [self._thread(self._subscribe, random.Random(self.rng.random()), self.resumes[i::subscribers]) for i in range(subscribers)]
        self.resumes = []
        if end == SETTLE:
            self._join(publishers)
            for model in self.models:
                last = (last_payload(self.lives), Sent(f"end.{self.lives}", 0, *self.keys[model].last()))
                self._guard(PUBLISHERS[0], self.d, model, [last], self.pb, self.rng)
        else:
            while not self.errors and sum(m.edge for m in self.models) - before < goal and any(t.is_alive() for t in publishers):
                time.sleep(0.002)
            if end == TERM:
                self.d.stop()
            else:
                self.d.kill()
            plans.clear()
            self._join(publishers)
        self._join(followers)
        if end != SETTLE:
            self.between()
            self.d.start()
        self.check()
        for keys in self.keys.values():
            keys.go_on()
        self.lives += 1

    def between(self):
        """Nothing, unless a fault is to be planted while the daemon is down."""

    def _join(self, threads):
        until = time.monotonic() + 5 * appliance.PATIENCE_S
        while not self.errors and any(t.is_alive() for t in threads):
            assert time.monotonic() < until, f"life {self.lives}: clients still wait for frames"
            for t in threads:
                t.join(0.05)
        if self.errors:
            raise self.errors[0]

    def check(self):
        for model in self.models:
            model.learn(everything_after(self.d, model))
            model.settle()
        for model, o in self.observations:
            model.check(o)
            self.subscriptions += 1
            self.deliveries += len(o.frames)
            if o.going_away is not None and self.rng.randrange(2):
                self.resumes.append((model, o.since, o.going_away or None))
        self.observations = []

    def replay(self):
        """Every stream once more, from its beginning."""
        self.live(len(self.models), SETTLE)
        for model in self.models:
            o = Observation(f"all of {model.name}", 0, None, model.edge)
            SUBSCRIBERS[0](self.d, model, o, None, as_it_is, self.lives - 1)
            model.check(o)
            assert len(o.frames) == len(model.raw)

    def frames(self):
        return sum(len(m.raw) for m in self.models)


def property_holds(d, pb, frames, lives):
    seed = int(os.environ.get("ORDINAL_SEED") or (time.time_ns() if os.environ.get("ORDINAL_HEAVY") == "1" else 1))
    print(f"\nORDINAL_SEED={seed}")
    run, began = Run(d, pb, seed), time.monotonic()
    ends = [SETTLE, TERM, KILL, KILL, SETTLE, TERM]
    while run.frames() < frames:
        end = ends[run.lives % len(ends)]
        run.live(frames // lives, end)
    run.replay()
    stats = {s["name"]: s for s in d.stats()["streams"]["by_name"]}
    assert all(stats[m.name]["durable_offset"] == len(m.raw) for m in run.models)
    late = sum(m.late() for m in run.models)
    assert late > frames // 20 and run.lives > len(ends)
    print(f"{run.frames():,} frames ({late:,} late) in {len(run.models)} streams, {run.lives} lives, {run.subscriptions} subscriptions, "
          f"{run.deliveries:,} frames delivered; {time.monotonic() - began:.0f} s; 0 differences")
    return stats


def test_replay_is_what_the_model_says(daemon, stubs):
    property_holds(daemon(**OPTIONS), stubs.pb, 10_000, 8)


@pytest.mark.heavy
def test_replay_of_a_million_frames_is_what_the_model_says(daemon, stubs):
    stats = property_holds(daemon(**OPTIONS), stubs.pb, 1_000_000, 40)
    assert sum(s["reads_disk"] for s in stats.values()) > 0, "all of it was in memory"


# Faults: what such a test is good for.


class Once:
    """Spoils the first batch of at least `least` frames that any subscriber receives."""

    def __init__(self, change, least=2):
        self.change, self.least, self.done = change, least, False

    def __call__(self, raws):
        if self.done or len(raws) < self.least:
            return raws
        self.done = True
        return self.change(list(raws))


def swap(raws):
    return [raws[1], raws[0], *raws[2:]]


def flip(raws):
    return [raws[0][:8] + bytes([raws[0][8] ^ 1]) + raws[0][9:], *raws[1:]]


FAULTS = {"a frame is missing": lambda raws: raws[1:], "two have changed places": swap, "one comes twice": lambda raws: [raws[0], *raws],
          "a bit is flipped": flip}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_sees_that(daemon, stubs, fault):
    run = Run(daemon(**OPTIONS), stubs.pb, 3, patterns=("mostly rising",))
    run.live(2000, SETTLE)
    run.spoil = Once(FAULTS[fault])
    with pytest.raises(Difference):
        run.live(2000, SETTLE)
    assert run.spoil.done


def test_the_model_sees_a_log_that_has_lost_what_was_acknowledged(daemon, stubs):
    """The data directory is put back to where it stood a life before."""
    run = Run(daemon(**OPTIONS), stubs.pb, 5)
    saved = run.d.directory / "saved"

    def save():
        shutil.copytree(run.d.data, saved)

    def put_back():
        shutil.rmtree(run.d.data)
        saved.rename(run.d.data)

    run.between = save
    run.live(1000, KILL)
    run.between = put_back
    with pytest.raises(Difference, match="acknowledged frames are gone"):
        run.live(1000, KILL)
