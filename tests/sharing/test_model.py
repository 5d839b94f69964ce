"""The distributor against a model that is a list of what was published and, for each receiver, a number."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from lifecycle import ANY_THREAD, ClosedError, FrameDistributor, FrameReceiver, Handle, Lagged, SafetyManager
from lifecycle.distribution import EvictAfter, KeepKeyFrames
from lifecycle.errors import Empty, EvictedError
from tests.core.adversary import STORM


class Reader:
    """What a receiver should do next."""

    def __init__(self, model: Model, receiver: FrameReceiver[Any], start: int, policy: Any) -> None:
        self.model = model
        self.receiver = receiver
        self.start = self.cursor = start
        self.policy = policy
        self.awaits_key = False
        self.received = 0
        self.lags = 0
        self.ended = ""

    @property
    def missed(self) -> int:
        return self.cursor - self.start - self.received

    def expected(self) -> Any:
        """A frame's number, ("lagged", missed), "empty", "closed" or "evicted"."""
        model = self.model
        if self.ended:
            return self.ended
        while True:
            newest = len(model.keys) - 1
            if self.cursor > newest:
                return "closed" if model.closed else "empty"
            if self.policy == "latest-only":
                self.cursor = newest
            there = self.cursor >= model.oldest or (
                isinstance(self.policy, KeepKeyFrames) and self.cursor in model.kept
            )
            if there and (not self.awaits_key or model.keys[self.cursor]):
                self.awaits_key = False
                self.cursor += 1
                self.received += 1
                return self.cursor - 1
            if there:
                self.cursor, self.awaits_key = model.next_key(self.cursor + 1)
                continue
            return self._lagged()

    def _lagged(self) -> Any:
        model = self.model
        if isinstance(self.policy, EvictAfter) and self.lags + 1 >= self.policy.lags:
            self.end("evicted")
            return "evicted"
        before = self.cursor
        if isinstance(self.policy, KeepKeyFrames):
            self.cursor, self.awaits_key = model.next_key(before)
        else:
            self.cursor = model.oldest
        self.lags += 1
        return ("lagged", self.cursor - before)

    def end(self, how: str) -> None:
        self.cursor = max(self.cursor, len(self.model.keys))
        self.ended = how


class Model(RuleBasedStateMachine):
    readers = Bundle("readers")

    @initialize(capacity=st.integers(1, 5))
    def begin(self, capacity: int) -> None:
        self.manager = SafetyManager(name="model")
        self.distributor: FrameDistributor[Handle[list[int]]] = FrameDistributor(capacity, name="model")
        self.capacity = capacity
        self.keys: list[bool] = []
        self.kept: list[int] = []
        self.closed = False
        self.released: list[int] = []
        self.open: list[Reader] = []

    @property
    def oldest(self) -> int:
        return max(0, len(self.keys) - self.capacity)

    @property
    def keep(self) -> int:
        return max((r.policy.keep for r in self.open if isinstance(r.policy, KeepKeyFrames)), default=0)

    def next_key(self, seq: int) -> tuple[int, bool]:
        there = [n for n in self.kept if n >= seq]
        there += [n for n in range(max(seq, self.oldest), len(self.keys)) if self.keys[n]]
        return (there[0], False) if there else (len(self.keys), True)

    def trim(self) -> None:
        del self.kept[: max(0, len(self.kept) - self.keep)]

    @rule(key=st.booleans(), count=st.integers(1, 7))
    def publish(self, key: bool, count: int) -> None:
        for _ in range(count):
            number = len(self.keys)
            handle = self.manager.register(
                [number], "frame", release=lambda item: self.released.append(item[0]), release_on=ANY_THREAD
            )
            try:
                told = self.distributor.publish(handle, key=key)
            except ClosedError:
                assert self.closed
                assert handle.close()
                assert self.released.pop() == number
                return
            handle.close()
            assert not self.closed
            overwritten = number - self.capacity
            self.keys.append(key)
            if overwritten >= 0 and self.keep and self.keys[overwritten]:
                self.kept.append(overwritten)
                self.trim()
            if number % self.capacity == 0:
                self.throw_out()
            assert told == len(self.open)

    def throw_out(self) -> None:
        for reader in list(self.open):
            laps = -(-max(0, self.oldest - reader.cursor) // self.capacity)
            if isinstance(reader.policy, EvictAfter) and laps and reader.lags + laps >= reader.policy.lags:
                reader.end("evicted")
                self.open.remove(reader)

    @rule(
        target=readers,
        start=st.sampled_from(["now", "keyframe", "oldest"]),
        policy=st.sampled_from(
            ["drop-oldest", "latest-only", KeepKeyFrames(1), KeepKeyFrames(3), EvictAfter(1), EvictAfter(3)]
        ),
    )
    def subscribe(self, start: Any, policy: Any) -> Any:
        try:
            receiver = self.distributor.subscribe(start=start, policy=policy, group=str(policy))
        except ClosedError:
            assert self.closed
            return None
        now = len(self.keys)
        at = {"now": now, "oldest": self.oldest, "keyframe": now}[start]
        in_ring = [n for n in range(self.oldest, now) if self.keys[n]]
        if start == "keyframe" and in_ring:
            at = in_ring[-1]
        reader = Reader(self, receiver, at, policy)
        reader.awaits_key = start == "keyframe" and not in_ring
        self.open.append(reader)
        return reader

    @rule(reader=readers, times=st.integers(1, 6))
    def receive(self, reader: Reader | None, times: int) -> None:
        for _ in range(times if reader is not None else 0):
            assert reader is not None
            result: Any
            try:
                share = reader.receiver.recv(timeout=0)
                with share.lease() as item:
                    result = item[0]
                share.close()
            except Lagged as lagged:
                result = ("lagged", lagged.missed)
            except Empty:
                result = "empty"
            except EvictedError:
                result = "evicted"
            except ClosedError:
                result = "closed"
            assert result == reader.expected()
            if reader.ended and reader in self.open:
                self.open.remove(reader)
                self.trim()

    @rule(reader=consumes(readers), drop=st.booleans())
    def leave(self, reader: Reader | None, drop: bool) -> None:
        if reader is None:
            return
        if drop:
            del reader.receiver
            self.distributor.stats()
        else:
            reader.receiver.close()
        if reader in self.open:
            reader.end("closed")
            self.open.remove(reader)
            self.trim()

    @rule()
    def close(self) -> None:
        if len(self.keys) > 10:  # not too soon
            self.distributor.close()
            self.closed = True

    @invariant()
    def figures_agree(self) -> None:
        if not hasattr(self, "distributor"):
            return
        stats = self.distributor.stats()
        assert (stats.published, stats.closed) == (len(self.keys), self.closed)
        assert stats.receivers == len(self.open)
        if not self.closed:
            held = set(range(self.oldest, len(self.keys))) | set(self.kept)
            assert stats.held == len(held)
            assert sorted(self.released) == sorted(set(range(len(self.keys))) - held)
        for reader in self.open:
            figures = reader.receiver.stats()
            assert (figures.received, figures.missed, figures.lags) == (
                reader.received,
                reader.missed,
                reader.lags,
            )
            assert figures.published == figures.received + figures.missed + figures.lag
        for group in stats.groups.values():
            assert group.published >= group.received + group.missed

    def teardown(self) -> None:
        if not hasattr(self, "distributor"):
            return
        self.distributor.close(discard=True)
        assert sorted(self.released) == list(range(len(self.keys)))
        assert self.manager.stats().leaks == 0
        assert self.manager.close().ok


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=int(60 * STORM),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
