"""Factories: what is made is registered, with no moment in between at which an interrupt could lose it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle.cell.cell import Extra
from lifecycle.cell.registry import Kind, Registry
from lifecycle.errors import ClosedError, DuplicateError, LifecycleError, LimitError
from lifecycle.handles.handle import Handle
from lifecycle.manager.registration import enter, insist
from lifecycle.places.queues import PlaceLike

T = TypeVar("T")


def build_factory(
    registry: Registry,
    kind_of: Callable[[Any, str | None], Kind],
    place_of: Callable[[Any], Any],
    rescue: Callable[..., bool],
    make: Callable[..., T],
    type_name: str | None,
    release: Callable[[T], object] | None,
    release_on: PlaceLike,
    limit: int | None,
) -> Callable[..., Handle[T]]:
    """What `SafetyManager.factory` returns. Its arguments have been checked."""
    taken: dict[object, None] = {}  # one entry for each object that is not released yet

    def give_back(
        box: list[T], slot: object, extra: Extra | None, begun: list[bool], error: BaseException | None
    ) -> bool:
        """What was made for us goes back; True once that is so."""
        if not box:
            taken.pop(slot, None)
        elif isinstance(error, LimitError) or not isinstance(error, LifecycleError):
            rescue(box[0], type_name, release, release_on, extra, begun)
        return True

    def made(*args: Any, **kwargs: Any) -> Handle[T]:
        slot = object()
        box: list[T] = []
        begun = [False]
        extra = struck = None
        try:
            if registry.closed:
                raise ClosedError(
                    f"manager {registry.name!r} is closed: nothing was made; make a new manager"
                )
            taken[slot] = None
            if limit is not None and len(taken) > limit:
                raise LimitError(
                    f"factory of {type_name or make!r} is at its limit of {limit} unreleased objects; close one first"
                )
            extra = Extra()
            extra.slot = (taken, slot)
            make_one = functools.partial(make, **kwargs)
            place = place_of(release_on)
            box.extend(itertools.starmap(make_one, (args,)))  # made and stored in one step
            kind = kind_of(box[0], type_name)
            return enter(kind, place, box[0], release, None, None, 0, None, extra, True, begun)
        except DuplicateError:
            taken.pop(slot, None)
            raise
        except BaseException as error:
            struck = error

            def attempt() -> (
                bool
            ):  # defined, not called for: between here and `try` nothing looks for signals
                return give_back(box, slot, extra, begun, struck)

            try:
                insist(attempt)
            except BaseException:
                try:
                    insist(attempt)
                except BaseException:
                    try:
                        insist(attempt)
                    except RecursionError:
                        # No call may be possible here, so it is left to the keeper without one.
                        registry.later[0:0] = [(give_back, ([*box], slot, extra, begun, struck))]
            raise
        finally:
            box.clear()
            struck = None

    return made
