"""Factories: what is made is registered, with no moment in between at which an interrupt could lose it."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from lifecycle._core.dropped import extra_for
from lifecycle._core.handle import Handle
from lifecycle._core.record import Extra
from lifecycle._core.register import enter, insist
from lifecycle._core.room import in_the_way, live_with, make_room
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.errors import ClosedError, LifecycleError, LimitError
from lifecycle.manager.rare import plan_release
from lifecycle.places.queues import PlaceLike

T = TypeVar("T")


class Places:
    """The places of a factory with a limit: each unreleased object has one, and keeps it in a dict of its
    own, the ticket.

    A place is taken, and given back, by one call into C: no interrupt, and no other thread, finds it in both
    or in neither. So of two threads that ask for the last place one gets it: they never refuse each other.
    """

    __slots__ = ("_back", "_fresh", "_takes")

    def __init__(self, limit: int) -> None:
        self._back: deque[int] = deque()
        self._takes = iter(self._back.popleft, None)
        self._fresh = itertools.takewhile(limit.__gt__, itertools.count())

    def take(self, ticket: dict[int, int]) -> bool:
        """Take a place into `ticket`; False when there is none."""
        try:
            ticket.update(zip((0,), self._takes, strict=False))
        except IndexError:  # none has come back: one that nobody has had yet
            ticket.update(zip((0,), self._fresh, strict=False))
        return bool(ticket)

    def pop(self, ticket: dict[int, int], default: None = None) -> None:
        """Give back the place of `ticket`; twice is once. (`Extra.slot` has it called as that of a dict.)"""
        self._back.extend(iter(functools.partial(ticket.pop, 0, None), None))


def build_factory(  # noqa: C901 - it is its inner functions
    registry: Registry,
    kind_of: Callable[[Any, str | None], ObjectType],
    place_of: Callable[[Any], Any],
    rescue: Callable[..., bool],
    make: Callable[..., T],
    type_name: str | None,
    release: Callable[[T], object] | None,
    release_on: PlaceLike,
    limit: int | None,
    unique: bool,
    method: str | None,
) -> Callable[..., Handle[T]]:
    """What `SafetyManager.factory` returns. Its arguments have been checked. `method`: the name that was
    given as the release, which the first object, and each of another type, is asked for."""
    places = Places(limit or 0)
    asked: type | None = None

    def give_back(
        box: list[T],
        ticket: dict[int, int],
        extra: Extra | None,
        begun: list[bool],
        error: BaseException | None,
    ) -> bool:
        """What was made for us goes back; True once that is so."""
        if box and (isinstance(error, LimitError) or not isinstance(error, LifecycleError)):
            rescue(box[0], type_name, release, release_on, None, extra, begun)
        if not begun[0]:  # no release of an object will give it back
            places.pop(ticket)
        return True

    def refusal() -> LimitError:
        """All places are taken."""
        out = live_with(registry, places)
        holders = in_the_way(out)
        error = LimitError(
            f"factory of {type_name or make!r} is at its limit: {limit} of {limit} are out: "
            f"{', '.join(holders)}{', …' if len(holders) < len(out) else ''}. Close one, or raise limit=."
        )
        error.type_name = type_name or ""
        error.holders = holders
        return error

    def made(*args: Any, **kwargs: Any) -> Handle[T]:
        nonlocal asked
        ticket: dict[int, int] = {}
        box: list[T] = []
        begun = [False]
        extra = struck = None
        try:
            if registry.closed:
                raise ClosedError(
                    f"manager {registry.name!r} is closed: nothing was made; make a new manager"
                )
            if limit is not None:
                if not places.take(ticket):
                    make_room(registry, lambda: live_with(registry, places))
                if not ticket and not places.take(ticket):
                    raise refusal()
                extra = Extra()
                extra.slot = (places, ticket)
            make_one = functools.partial(make, **kwargs)
            place = place_of(release_on)
            box.extend(itertools.starmap(make_one, (args,)))  # made and stored in one step
            kind = kind_of(box[0], type_name)
            planned = release
            if method is not None and type(box[0]) is not asked:
                plan_release(method, box[0])
                asked = type(box[0])
            if type(release) is not FunctionType and release is not None:
                planned = plan_release(release, box[0])
                extra = extra_for(planned, extra)
            return enter(kind, place, box[0], planned, None, None, 0, None, extra, unique, begun)
        except BaseException as error:
            struck = error

            def attempt() -> (
                bool
            ):  # defined, not called for: between here and `try` nothing looks for signals
                return give_back(box, ticket, extra, begun, struck)

            try:
                insist(attempt)
            except BaseException:
                try:
                    insist(attempt)
                except BaseException:
                    try:
                        insist(attempt)
                    except BaseException:
                        # No call may be possible here, or each is struck, so it is left to the keeper without
                        # one.
                        registry.later[0:0] = [(give_back, ([*box], ticket, extra, begun, struck))]
            raise
        finally:
            box.clear()
            struck = None

    return made
