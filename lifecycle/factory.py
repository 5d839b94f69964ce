"""Factories: what is made is registered, with no moment in between at which an interrupt could lose it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle.cell import Extra, Kind, Registry
from lifecycle.errors import ClosedError, DuplicateError, LifecycleError, LimitError
from lifecycle.handle import Handle
from lifecycle.queues import PlaceLike
from lifecycle.registration import RESCUES, enter

T = TypeVar("T")


def build_factory(
    registry: Registry,
    kind_of: Callable[[Any, str | None], Kind],
    place_of: Callable[[Any], Any],
    rescue: Callable[..., None],
    make: Callable[..., T],
    type_name: str | None,
    release: Callable[[T], object] | None,
    release_on: PlaceLike,
    limit: int | None,
) -> Callable[..., Handle[T]]:
    """What `SafetyManager.factory` returns. Its arguments have been checked."""
    taken: dict[object, None] = {}  # one entry for each object that is not released yet

    def made(*args: Any, **kwargs: Any) -> Handle[T]:
        slot = object()
        box: list[T] = []
        begun = [False]
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
            for _ in RESCUES:  # what was made for us goes back; whatever may be interrupted once more stands inside the `try`
                try:
                    if not box:
                        taken.pop(slot, None)
                        break
                    if begun[0] or (isinstance(error, LifecycleError) and not isinstance(error, LimitError)):
                        break
                    rescue(box[0], type_name, release, release_on, extra, begun)
                except BaseException:  # noqa: S112 - interrupted once more: the first interrupt is raised below
                    continue
            raise
        finally:
            box.clear()

    return made
