"""`ObjectLifecycleManager`: objects known by their ids, with names, validators, a history and their families.

Thin: an object is registered with the manager, rules are `SafetyManager.policy`, states and times are those
of the manager's own record. So the history of an object costs nothing until it is read: it is read off the
record, which remembers when and why the door was shut, when the release began and how it came out, until
`SafetyConfig.state_retention` has passed or ``max_retained`` later ones have ended. What this module adds are
two indexes, by name and of children, kept as objects come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs

from lifecycle.errors import RegistrationError
from lifecycle.facades import Facade
from lifecycle.lowlevel import (
    DEFAULT,
    Default,
    Facts,
    PlaceLike,
    check_facts,
    facts,
    monotonic,
    snapshot,
    wall_time,
)
from lifecycle.manager import BACKGROUND, SafetyManager
from lifecycle.states import CLOSING, ENDED, INVALID, POISONED, RELEASING, VALID, ObjectState
from lifecycle.stats import ObjectInfo, ObjectStats

__all__ = ["Family", "Transition"]

T = TypeVar("T")


@attrs.frozen
class Transition:
    """One step in an object's life."""

    state: ObjectState
    """What it became."""
    at: float
    """Unix time, in seconds."""
    why: str = ""
    """What shut the door, and the reason; what a failed release raised."""
    site: str = ""
    """Where in the program: of the registration where that was recorded, of the call that shut the door."""

    def __str__(self) -> str:
        return f"{self.state}{f' ({self.why})' if self.why else ''}{f' at {self.site}' if self.site else ''}"


@attrs.frozen
class Family:
    """An object and its children, oldest first."""

    info: ObjectInfo
    """What is known of the object."""
    children: tuple[Family, ...]
    """Its children's families, oldest first."""

    def walk(self, depth: int = 0) -> Iterator[tuple[int, ObjectInfo]]:
        """Every member with its depth, parents before their children."""
        todo = [(depth, self)]
        while todo:
            level, family = todo.pop()
            yield level, family.info
            todo.extend((level + 1, child) for child in reversed(family.children))

    def __str__(self) -> str:
        return "\n".join(f"{'  ' * depth}{info}" for depth, info in self.walk())


class ObjectLifecycleManager(Facade):
    """Registers objects under names and answers by id.

    Parameters
    ----------
    manager:
        The `SafetyManager` to register with; None makes one, which is closed with this.
    name:
        Its name; the manager's by default.

    A context manager that closes itself. All methods may be called on any thread and at any moment.
    """

    kind = "objects"

    def __init__(self, manager: SafetyManager | None = None, *, name: str | None = None) -> None:
        self._names: dict[str, dict[int, None]] = {}
        self._children: dict[int, dict[int, None]] = {}
        super().__init__(manager, name)

    # -- objects ---------------------------------------------------------------------------------------------

    def register_object(
        self,
        obj: T,
        type_name: str | None = None,
        name: str | None = None,
        *,
        release: Callable[[T], object] | None = None,
        release_on: PlaceLike = BACKGROUND,
        native: Any = None,
        parent: Any = None,
        size: int = 0,
    ) -> int:
        """Take ownership of `obj` and return its id. Everything as in `SafetyManager.register`; `parent` may
        also be the id of an object of this manager, which then outlives this one. Names need not be
        different.

        Raises what that raises, and `ClosedError`. After an exception the object is still yours, unless the
        message says that it was released.
        """
        return self._register(
            obj,
            type_name,
            name,
            size,
            release,
            release_on,
            native,
            parent,
            lambda id: self._note(id, name),
        )

    def _note(self, id: int, name: str | None) -> None:
        if name is not None:
            _join(self._names, name, id)
        parent = facts(id, self._manager).parent_id
        if parent:
            _join(self._children, parent, id)

    def _left(self, id: int) -> None:
        known = self._known(id)
        if known is None:
            return
        if known.name is not None:
            _leave(self._names, known.name, id)
        if known.parent_id:
            _leave(self._children, known.parent_id, id)

    def unregister_object(self, id: int, *, timeout: float | Default | None = DEFAULT) -> bool:
        """Close the object for all its shares and release it; return True if it is released. With `timeout`
        it waits so many seconds for holders. Raises `UnknownObjectError` for an id that this manager did not
        give."""
        return self._unregister(id, timeout)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._names.clear()
        self._children.clear()

    # -- rules -----------------------------------------------------------------------------------------------

    def enable_validation(self, type_name: str, validate: Callable[[Any], object]) -> None:
        """Have ``validate(obj)`` asked before each access to an object of the type. If it returns False or
        raises, the object is invalidated, with that as the reason, and the access refused. A rule of the
        type, for the whole manager."""
        if validate is None:
            raise RegistrationError(
                "enable_validation takes a function; disable_validation(type_name) takes it away"
            )
        self._manager.policy(type_name, validate=validate)

    def disable_validation(self, type_name: str) -> None:
        """Ask no longer."""
        self._manager.policy(type_name, validate=None)

    def set_max_age(self, type_name: str, seconds: float | None) -> None:
        """Have objects of the type that live for longer count as held too long; None: for no time. For the
        whole manager."""
        self._manager.policy(type_name, max_age=seconds)

    # -- knowing ---------------------------------------------------------------------------------------------

    def info(self, id: int) -> ObjectInfo:
        """What is known of the object now; also of one that has ended, until its record expires."""
        return self._facts_of(id).info()

    def find(self, name: str | None = None, type_name: str | None = None) -> tuple[ObjectInfo, ...]:
        """The objects that have this name and type and have not ended, oldest first; without either, all. By
        name it costs what has that name."""
        check_facts(name, 0)
        ids = snapshot(self._names.get(name, {}) if name is not None else self._index)
        found = []
        for id in sorted(ids):
            known = self._known(id)
            if known is None or known.has_ended:
                continue
            if type_name is None or known.type_name == type_name:
                found.append(known.info())
        return tuple(found)

    def overdue(self) -> tuple[ObjectInfo, ...]:
        """The objects that have lived for longer than the `set_max_age` of their type."""
        now = monotonic()
        found = []
        for id in sorted(snapshot(self._index)):
            known = self._known(id)
            if known is not None and not known.has_ended:
                max_age = known.max_age
                if max_age is not None and now - known.born > max_age:
                    found.append(known.info())
        return tuple(found)

    def history(self, id: int) -> tuple[Transition, ...]:
        """The object's steps so far, in their order; at most five. Raises `UnknownObjectError` when its
        record has expired."""
        return tuple(_steps(self._facts_of(id)))

    def children(self, id: int) -> tuple[int, ...]:
        """The ids of the object's children that have not ended, oldest first."""
        self._facts_of(id)
        return tuple(sorted(snapshot(self._children.get(id, {}))))

    def parent(self, id: int) -> int:
        """The id of its parent, 0 without one."""
        return self.info(id).parent

    def tree(self, id: int | None = None) -> tuple[Family, ...]:
        """The object with its children and theirs; without an id, every family whose head was registered here
        or belongs to none of ours. Costs what objects it shows."""
        if id is not None:
            return (self._family(id),)
        ids = sorted(snapshot(self._index))
        heads = [one for one in ids if self._parent_of(one) not in self._index]
        return tuple(self._family(head) for head in heads)

    def _parent_of(self, id: int) -> int:
        known = self._known(id)
        return 0 if known is None else known.parent_id

    def _family(self, id: int) -> Family:
        """Without recursion: a family may be any number of generations deep."""
        order = [id]
        for one in order:
            order.extend(sorted(snapshot(self._children.get(one, {}))))
        made: dict[int, list[Family]] = {}
        family = None
        for one in reversed(order):
            family = Family(self._facts_of(one).info(), tuple(reversed(made.pop(one, ()))))
            made.setdefault(self._parent_of(one), []).append(family)
        assert family is not None
        return family

    def stats(self) -> ObjectStats:
        """Figures of this moment."""
        return ObjectStats(objects=len(self._index), names=len(self._names))


K = TypeVar("K")


def _join(table: dict[K, dict[int, None]], key: K, id: int) -> None:
    """Enter `id` in the group of `key`. A group that was just found empty may be on its way out: then it is
    done again."""
    while True:
        group = table.setdefault(key, {})
        group[id] = None
        if table.get(key) is group:
            return


def _leave(table: dict[K, dict[int, None]], key: K, id: int) -> None:
    """Take `id` out, and the group with it if it was the last; a group that was joined meanwhile goes
    back."""
    group = table.get(key)
    if group is None:
        return
    group.pop(id, None)
    if not group:
        gone = table.pop(key, None)
        if gone:
            table.setdefault(key, gone).update(gone)


def _steps(known: Facts) -> Iterator[Transition]:
    offset = wall_time() - monotonic()
    cause, state, reason = known.cause, known.state, known.reason
    ended = state in ENDED
    yield Transition(VALID, known.born + offset, site=known.site)
    if known.shut or cause is not None:
        failed = ended and cause not in POISONED
        why = f"{cause or 'drop'}{f': {reason}' if reason and not failed else ''}"
        shut = INVALID if cause in POISONED else CLOSING
        yield Transition(shut, (known.shut or known.born) + offset, why, known.closed_site)
    if known.begun:
        yield Transition(
            RELEASING, known.begun + offset, f"try {known.attempts + 1}" if known.attempts else ""
        )
    elif not ended and state not in (VALID, CLOSING, INVALID, RELEASING):
        yield Transition(state, wall_time())
    if ended:
        ended_well = state is ObjectState.RELEASED
        why = "" if ended_well or cause in POISONED else reason
        yield Transition(state, (known.ended or known.shut) + offset, why)
