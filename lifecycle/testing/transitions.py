"""Whether objects live by the table of states: every change is looked up in `lifecycle.states.TRANSITIONS`.

A state is not stored, it follows from what is: `Record.phase`, `Record.cause`, the door, the core. While the
check is on, the slots of the class that hold them are replaced by properties which look at the state before
and behind each store; so no store escapes, on any thread, and when it is off nothing of it is left. A change
that no store makes, the death of a core, is found by the next store.

A broken rule is noted, not raised: the library goes on as it would, and `broken` has it, whichever thread it
happened on.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType, TracebackType
from typing import Any

from lifecycle._core import record as cell
from lifecycle._core import runtime
from lifecycle._core.describe import describe, state_of
from lifecycle._core.record import PLAIN, Record
from lifecycle.states import (
    CLOSING,
    DUE,
    ENDED,
    INVALID,
    RELEASED,
    STUCK,
    TRANSITIONS,
    VALID,
    ObjectState,
)

WATCHED = ("phase", "cause", "outcome")
"""The slots of `Record` whose stores are watched."""

BY_ITSELF: dict[ObjectState, frozenset[ObjectState]] = {
    VALID: frozenset({CLOSING, DUE}),
    CLOSING: frozenset({DUE}),
    INVALID: frozenset({DUE}),
}
"""Changes that no store makes: the last handle goes, the last holder goes."""


def follows(one: ObjectState, two: ObjectState) -> bool:
    """Return True if `two` may be seen after `one`, with changes that no store makes in between."""
    if one is two or two in TRANSITIONS[one]:
        return True
    return any(middle in TRANSITIONS[one] and follows(middle, two) for middle in BY_ITSELF.get(one, ()))


class check_transitions:
    """While on, every change of an object's state is looked up in the table; ``broken`` says which were not
    there.

    A context manager; use `start` and `stop` where `with` cannot be used. One at a time. Callable on any
    thread.
    """

    def __init__(self) -> None:
        self.broken: list[str] = []
        """What happened that the table does not have, in words."""
        self.walked: set[tuple[ObjectState, ObjectState]] = set()
        """The changes that were seen, those of the table alone."""
        self._slots: dict[str, Any] = {}
        self._last: dict[int, ObjectState] = {}
        self._order = threading.RLock()  # two stores to one record are looked at one after the other

    def start(self) -> None:
        """Begin to watch."""
        cell.stores_meet = True
        for name in WATCHED:
            slot = Record.__dict__[name]
            if isinstance(slot, property):
                raise RuntimeError("the transitions are checked already: stop that check first")
            self._slots[name] = slot
            setattr(Record, name, property(slot.__get__, self._watched(name, slot.__set__)))

    def stop(self) -> None:
        """Watch no more: the slots are as they were."""
        cell.stores_meet = runtime.free_threaded
        while self._slots:
            name, slot = self._slots.popitem()
            setattr(Record, name, slot)
        self._last.clear()

    def __enter__(self) -> check_transitions:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _watched(self, name: str, store: Any) -> Any:
        def watched(record: Record, value: Any) -> None:
            trace = sys.gettrace()
            if trace is None:
                self._store(record, name, store, value)
                return
            # What is looked at in here is no code of the library's that an adversary may strike, or stand
            # still in.
            try:
                sys.settrace(None)
                self._store(record, name, store, value)
            finally:
                sys.settrace(trace)

        codes.add(watched.__code__)
        return watched

    def _store(self, record: Record, name: str, store: Any, value: Any) -> None:
        with self._order:
            before = _state(record)
            decided = getattr(record, "outcome", None) if name == "outcome" else None
            store(record, value)
            after = _state(record)
            if before is not None and after is not None:
                self._look(record, before, after, name, value)
                # That an end was plain is said behind it.
                if decided in ENDED and value is not decided and (decided, value) != (RELEASED, PLAIN):
                    self._note(record, f"its outcome was {decided}, and became {value!r}")

    def _look(self, record: Record, before: ObjectState, after: ObjectState, name: str, value: Any) -> None:
        last = self._last.get(record.id, before)
        for one, two, by_itself in ((last, before, True), (before, after, False)):
            if one is two:
                continue
            if two in TRANSITIONS[one]:
                self.walked.add((one, two))
            elif not by_itself or not follows(one, two):
                self._note(record, f"{one} -> {two} is not in the table (at the store of {name} = {value!r})")
        if after in ENDED and after is not STUCK:
            self._last.pop(record.id, None)
        else:
            self._last[record.id] = after

    def _note(self, record: Record, what: str) -> None:
        site = runtime.describe_site(runtime.site_of(sys._getframe(4)))
        self.broken.append(
            f"{describe(record)}: {what}, on thread {threading.current_thread().name!r} at {site}"
        )


codes: set[CodeType] = set()
"""The code that stands in for a store: an interrupt that strikes there would strike in the middle of one."""


def _state(record: Record) -> ObjectState | None:
    """The state; None of a record that is not entered (yet): nobody can see it."""
    try:
        return state_of(record) if record.kind.registry.records.get(record.id) is record else None
    except AttributeError:
        return None
