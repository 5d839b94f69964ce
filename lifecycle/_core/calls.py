"""One call through a proxy: the door, the arguments, the object, the result, and the way out.

Each call holds the pin for its length, in a local variable alone. What leaves on the way out after the door
was shut releases the object itself, on the thread that used it, if it was the last.

`method`, those for methods of no, one or two arguments, `getter`, `unary` and `binary` are what most members
are made of: straight code for objects whose calls need nothing else. `lifecycle.proxies.classes` puts a
member's name in the place of ``ATTRIBUTE``, and its arguments' names in theirs. `general` does the same, and
what is rare: calls that run one at a time, results that have to be released, validators and profilers,
interrupts between a result and its registration.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from lifecycle._core import runtime
from lifecycle._core.access import refuse
from lifecycle._core.describe import about, describe
from lifecycle._core.idioms import OURS, clear_frames
from lifecycle._core.idioms import method_called_by as method_called_by  # the proxies' as well
from lifecycle._core.keeping import ProxyType
from lifecycle._core.proxied import GONE, Proxy
from lifecycle._core.record import Record, arm, silence
from lifecycle._core.register import insist_thrice as insist_thrice
from lifecycle._core.runtime import complain
from lifecycle.errors import ExclusiveError

__all__ = ["complain", "general", "given", "leave", "unwrapped"]

PLAIN: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, bytearray, type(None), type(NotImplemented), type(...)}
    | {range, slice, type}
)
"""Types whose objects are data. They come back as they are."""
ATTRIBUTE = "ATTRIBUTE"
SIMPLE = frozenset(PLAIN | {memoryview})
"""Types of arguments that are passed without a look."""
DATA = PLAIN - {type}
"""Types of results that are given out without a look."""
CONTAINERS = frozenset({tuple, list, dict})
"""Types of arguments that are looked into, one level deep."""
LOOKED_INTO = 32
"""Items of an argument above which it is passed without a look: tables of numbers have no proxies."""

Held = list[tuple[Any, Any, Any]]
"""Of each argument that was a proxy: the proxy, the object, and the lease."""


# -- straight ways -------------------------------------------------------------------------------------------


def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A method."""
    pin: Any = None
    raw = result = held = first = others = pin
    handle = self._lifecycle_handle
    record = handle._record
    try:
        pin = handle._cell.pin
        if pin is None or record.cause is not None or record.kind.validate is not None:
            pin = None
            return general(self, "ATTRIBUTE", args, kwargs)
        raw = self._lifecycle_raw
        if raw is None:
            raw = record.obj
        if kwargs:
            held = []
        else:
            number = len(args)
            if number == 1:
                (result,) = args
                if type(result) in SIMPLE:
                    result = raw.ATTRIBUTE(result)
                else:
                    held = []
            elif number == 2:
                first, result = args
                if type(first) in SIMPLE and type(result) in SIMPLE:
                    result = raw.ATTRIBUTE(first, result)
                else:
                    held = []
            elif not number:
                result = raw.ATTRIBUTE()
            else:
                held = []
        if held is not None:
            others = []
            args, kwargs = unwrapped(args, kwargs, held, others)
            result = raw.ATTRIBUTE(*args, **kwargs)
            if held:
                return given(self, pin, result, None, None, held)
        if type(result) in DATA:
            return result
        raw = self._lifecycle_node.results[type(result)]
        return result if raw is None else raw(self, pin, result)
    except BaseException as error:
        forget(error)
        raise
    finally:
        if others or record.cause is not None:
            others = [*(others or ()), record]
            try:
                silence_all(others)
            finally:
                pin = raw = result = first = args = kwargs = held = None  # type: ignore[assignment]
                leave_all(others)
        pin = raw = result = first = args = kwargs = held = None  # type: ignore[assignment]  # K3


def bare_method(self: Any, /) -> Any:
    """A method that takes no arguments."""
    pin = raw = result = None
    handle = self._lifecycle_handle
    record = handle._record
    try:
        pin = handle._cell.pin
        if pin is None or record.cause is not None or record.kind.validate is not None:
            pin = None
            return general(self, "ATTRIBUTE", (), {})
        raw = self._lifecycle_raw
        result = record.obj.ATTRIBUTE() if raw is None else raw.ATTRIBUTE()
        if type(result) in DATA:
            return result
        raw = self._lifecycle_node.results[type(result)]
        return result if raw is None else raw(self, pin, result)
    except BaseException as error:
        forget(error)
        raise
    finally:
        if record.cause is not None:
            try:
                silence(record)
            finally:
                pin = raw = result = None
                leave(record)
        pin = raw = result = None  # K3


def method_of_one(self: Any, first: Any) -> Any:
    """A method that takes one argument, and always that."""
    pin: Any = None
    raw = result = held = others = pin
    handle = self._lifecycle_handle
    record = handle._record
    try:
        pin = handle._cell.pin
        if pin is None or record.cause is not None or record.kind.validate is not None:
            pin = None
            return general(self, "ATTRIBUTE", (first,), {})
        raw = self._lifecycle_raw
        if raw is None:
            raw = record.obj
        if type(first) in SIMPLE:
            result = raw.ATTRIBUTE(first)
        else:
            held = []
            others = []
            (first,), _ = unwrapped((first,), {}, held, others)
            result = raw.ATTRIBUTE(first)
            if held:
                return given(self, pin, result, None, None, held)
        if type(result) in DATA:
            return result
        raw = self._lifecycle_node.results[type(result)]
        return result if raw is None else raw(self, pin, result)
    except BaseException as error:
        forget(error)
        raise
    finally:
        if others or record.cause is not None:
            others = [*(others or ()), record]
            try:
                silence_all(others)
            finally:
                pin = raw = result = first = held = None
                leave_all(others)
        pin = raw = result = first = held = None  # K3


def method_of_two(self: Any, first: Any, second: Any) -> Any:
    """A method that takes two arguments, and always both."""
    pin: Any = None
    raw = result = held = others = pin
    handle = self._lifecycle_handle
    record = handle._record
    try:
        pin = handle._cell.pin
        if pin is None or record.cause is not None or record.kind.validate is not None:
            pin = None
            return general(self, "ATTRIBUTE", (first, second), {})
        raw = self._lifecycle_raw
        if raw is None:
            raw = record.obj
        if type(first) in SIMPLE and type(second) in SIMPLE:
            result = raw.ATTRIBUTE(first, second)
        else:
            held = []
            others = []
            (first, second), _ = unwrapped((first, second), {}, held, others)
            result = raw.ATTRIBUTE(first, second)
            if held:
                return given(self, pin, result, None, None, held)
        if type(result) in DATA:
            return result
        raw = self._lifecycle_node.results[type(result)]
        return result if raw is None else raw(self, pin, result)
    except BaseException as error:
        forget(error)
        raise
    finally:
        if others or record.cause is not None:
            others = [*(others or ()), record]
            try:
                silence_all(others)
            finally:
                pin = raw = result = first = second = held = None
                leave_all(others)
        pin = raw = result = first = second = held = None  # K3


def getter(self: Any) -> Any:
    """An attribute or property."""
    pin = raw = result = None
    handle = self._lifecycle_handle
    record = handle._record
    try:
        pin = handle._cell.pin
        if pin is None or record.cause is not None or record.kind.validate is not None:
            pin = None
            return general(self, getattr, ("ATTRIBUTE",), {})
        raw = self._lifecycle_raw
        if raw is None:
            raw = record.obj
        result = raw.ATTRIBUTE
        if type(result) in DATA:
            return result
        raw = self._lifecycle_node.results[type(result)]
        return result if raw is None else raw(self, pin, result)
    except BaseException as error:
        forget(error)
        raise
    finally:
        if record.cause is not None:
            try:
                silence(record)
            finally:
                pin = raw = result = None
                leave(record)
        pin = raw = result = None  # K3


def unary(operation: Callable[[Any], Any]) -> Any:
    """A special method that ``operation(obj)`` calls."""

    def operate(self: Any) -> Any:
        pin = raw = result = None
        handle = self._lifecycle_handle
        record = handle._record
        try:
            pin = handle._cell.pin
            if pin is None or record.cause is not None or record.kind.validate is not None:
                pin = None
                return general(self, operation, (), {})
            raw = self._lifecycle_raw
            result = operation(record.obj if raw is None else raw)
            if type(result) in DATA:
                return result
            raw = self._lifecycle_node.results[type(result)]
            return result if raw is None else raw(self, pin, result)
        except BaseException as error:
            forget(error)
            raise
        finally:
            if record.cause is not None:
                try:
                    silence(record)
                finally:
                    pin = raw = result = None
                    leave(record)
            pin = raw = result = None  # K3

    return operate


def binary(operation: Callable[[Any, Any], Any]) -> Any:
    """A special method that ``operation(obj, other)`` calls."""

    def operate(self: Any, other: Any, /) -> Any:
        pin = raw = result = None
        handle = self._lifecycle_handle
        record = handle._record
        try:
            pin = handle._cell.pin
            if (
                pin is None
                or record.cause is not None
                or record.kind.validate is not None
                or type(other) not in SIMPLE
            ):
                pin = None
                return general(self, operation, (other,), {})
            raw = self._lifecycle_raw
            result = operation(record.obj if raw is None else raw, other)
            if type(result) in DATA:
                return result
            raw = self._lifecycle_node.results[type(result)]
            return result if raw is None else raw(self, pin, result)
        except BaseException as error:
            forget(error)
            raise
        finally:
            if record.cause is not None:
                try:
                    silence(record)
                finally:
                    pin = raw = result = other = None
                    leave(record)
            pin = raw = result = other = None  # K3

    return operate


# -- the general way -----------------------------------------------------------------------------------------

NO_ARGUMENTS: tuple[tuple[()], ...] = ((),)


def general(
    self: Any,
    operation: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    on: Any = None,
    rule: tuple[Any] | None = None,
    lock: Any = None,
) -> Any:
    """Call ``operation(obj, *args, **kwargs)``, or its method of that name, through the door of the proxy
    `self`, and return what may be given out of the result.

    `on`: a box with an iterator of the object, to be used in its place. `rule`: that of the result, whatever
    its type. `lock`: taken for the call.
    """
    handle = self._lifecycle_handle
    node = self._lifecycle_node
    record = handle._record
    box: list[Any] = []
    turn: list[Any] = []
    held: Held = []
    others: list[Record] = []
    lease = pin = raw = bound = None
    try:
        if lock is None and node.exclusive is not False and node.alone(operation):
            lock = handle._dependents.lock
        if lock is not None:
            handle.lease().close()  # who is refused waits for nobody
            turn.extend(itertools.starmap(lock.acquire, NO_ARGUMENTS))
        lease = handle.lease()
        raw = lease.__enter__()
        pin = lease._pin
        if on is not None:
            raw = on.raw
        elif self._lifecycle_raw is not None:
            raw = self._lifecycle_raw
        if raw is GONE:
            refuse(record, handle)
        if args or kwargs:
            args, kwargs = unwrapped(args, kwargs, held, others)
        bound = getattr(raw, operation) if type(operation) is str else functools.partial(operation, raw)
        if kwargs:
            bound = functools.partial(bound, **kwargs)
        raw = None
        if node.owns:
            return _owning(self, pin, bound, operation, args, rule, held, box)
        raw = bound(*args)
        return given(self, pin, raw, operation, rule, held)
    except BaseException as error:
        try:
            forget(error)
            if box:
                save(self, pin, box, operation, rule)
        except RecursionError:
            # No call may be possible here, so it is left to the keeper without one.
            if box:
                record.kind.registry.later[0:0] = [(save, (self, pin, [*box], operation, rule))]
        raise
    finally:
        # K3. A lease ends when it dies.
        try:
            others.append(record)
            silence_all(others)
        finally:
            pin = raw = bound = args = kwargs = on = lease = held = box = None  # type: ignore[assignment]
            if turn:
                lock.release()
            leave_all(others)


def _owning(
    self: Any, pin: Any, bound: Any, operation: Any, args: Any, rule: Any, held: Held, box: list[Any]
) -> Any:
    """Call, and store what has to be released in one step, so that no interrupt loses it."""
    done: list[Any] = []
    forgetting: Any = ()
    try:
        box.extend(itertools.starmap(bound, (args,)))
        if not box:  # `extend` takes it for its own end
            raise StopIteration
        made = given(self, pin, box[0], operation, rule, held)
        pending = self._lifecycle_handle._dependents.pending
        found = self._lifecycle_node.results.owned_in(box[0], _rule(self, operation, rule))
        forgetting = map(pending.pop, [id(value) for value, _ in found], itertools.repeat(None))
        box.clear()
        return made
    finally:
        if not box:  # nothing is left to be saved, so nothing is left to be known of it
            done.extend(forgetting)
        pin = bound = args = held = box = made = found = forgetting = None  # type: ignore[assignment]  # K3


def _rule(self: Any, operation: Any, rule: tuple[Any] | None) -> tuple[Any] | None:
    names = self._lifecycle_node.names
    if rule is None and type(operation) is str and operation in names:
        return (names[operation],)
    return rule


def given(
    self: Any,
    pin: Any,
    result: Any,
    operation: Any = None,
    rule: tuple[Any] | None = None,
    held: Held | None = None,
) -> Any:
    """What is given out of `result`: data, a child, the proxy itself, or one that was an argument."""
    how = raw = None
    try:
        rule = _rule(self, operation, rule)
        if rule is not None:
            return self._lifecycle_node.results.by_rule(self, pin, result, rule[0])
        if held:
            for proxy, raw, _ in held:
                if raw is result:
                    return proxy
        how = self._lifecycle_node.results[type(result)]
        return result if how is None else how(self, pin, result)
    finally:
        pin = result = held = how = raw = None  # K3


def save(self: Any, pin: Any, box: list[Any], operation: Any, rule: tuple[Any] | None) -> None:
    """Something was raised after a call had made what has to be released: it is released now."""
    results = self._lifecycle_node.results
    found: list[Any] = []
    rule = _rule(self, operation, rule)

    def attempt() -> bool:
        found[:] = results.owned_in(box[0], rule)
        for value, node in found:
            results.give_back(self, pin, value, node)
        found.clear()
        return True

    try:
        insist_thrice(attempt)
        pending = self._lifecycle_handle._dependents.pending
        for value, _ in results.owned_in(box[0], rule):
            pending.pop(id(value), None)
    finally:
        value = pin = attempt = None  # type: ignore[assignment]  # K3
        found.clear()


# -- arguments -----------------------------------------------------------------------------------------------


def unwrapped(
    args: tuple[Any, ...], kwargs: dict[str, Any], held: Held, others: list[Record]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with the objects in place of their proxies, also of those in short tuples, lists and
    dicts. The leases, which last as long as the call, go into `held`, and whose they are into `others`.
    Raises `AccessRefusedError` when one of them is shut."""
    value = None
    try:
        for value in args:
            if type(value) not in SIMPLE and (type(type(value)) is ProxyType or type(value) in CONTAINERS):
                args = tuple([_unwrapped(value, held, others) for value in args])
                break
        for value in kwargs.values():
            if type(value) not in SIMPLE:
                kwargs = {name: _unwrapped(value, held, others) for name, value in kwargs.items()}
                break
        return args, kwargs
    finally:
        value = args = kwargs = held = None  # type: ignore[assignment]  # K3


def _unwrapped(value: Any, held: Held, others: list[Record]) -> Any:
    kind = type(value)
    if type(kind) is ProxyType:
        return _leased(value, held, others)
    if kind not in CONTAINERS or not value or len(value) > LOOKED_INTO:
        return value
    inside = list(value.values() if kind is dict else value)
    if ProxyType not in map(type, map(type, inside)):
        return value
    inside = [_leased(one, held, others) if type(type(one)) is ProxyType else one for one in inside]
    return dict(zip(value, inside, strict=True)) if kind is dict else kind(inside)


def _leased(proxy: Any, held: Held, others: list[Record]) -> Any:
    lease = raw = None
    try:
        others.append(proxy._lifecycle_handle._record)
        lease = proxy._lifecycle_handle.lease()
        raw = lease.__enter__()
        if proxy._lifecycle_raw is not None:
            raw = proxy._lifecycle_raw
        held.append((proxy, raw, lease))
        return raw
    finally:
        lease = raw = None


# -- the way out ---------------------------------------------------------------------------------------------


def leave(record: Record) -> None:
    """The door was shut while the call was inside: if the object has no other holder, have it released now,
    here if its place allows it."""
    if record.phase is None and (record() is None or (record.place.anywhere and not arm(record))):
        record.place.settle(record, 0)


def leave_all(records: list[Record]) -> None:
    """As `leave`, of what was leased for a call."""
    for record in records:
        if record.cause is not None:
            leave(record)


def silence_all(records: list[Record]) -> None:
    """As `silence`, ahead of `leave_all`: who lets go of them looks after them himself."""
    for record in records:
        if record.cause is not None:
            silence(record)


def forget(error: BaseException) -> None:
    """K3, of the frames of the library that `error` has come through: a callee that was struck before its
    first line could not do it itself."""
    clear_frames(error.__traceback__, OURS)


def leave_proxy(proxy: Proxy) -> None:
    """As `leave`, if the door was shut."""
    record = proxy._lifecycle_handle._record
    if record.cause is not None:
        leave(record)


def not_copied(self: Any, *_: Any) -> NoReturn:
    """What `copy` and `pickle` are told."""
    raise TypeError(
        f"{self!r} cannot be copied or pickled: it stands for a native object, which the copy would use "
        "beside it. Pass the proxy itself, or copy what it gives out"
    )


def refuse_inside(proxy: Proxy) -> None:
    """Raise `ExclusiveError` where this thread is inside a call of the object: it would wait for itself."""
    record = proxy._lifecycle_handle._record
    above: FrameType | None = None
    frame: FrameType | None = sys._getframe(1)
    inside = False
    while frame is not None:
        if frame.f_code.co_filename == __file__ and "pin" in frame.f_code.co_varnames:
            stays = runtime.copy_stays(frame, above)
            known = frame.f_locals
            try:
                inside = inside or (known.get("record") is record and known.get("pin") is not None)
            finally:
                if not stays:
                    known.clear()
                known = None  # type: ignore[assignment]
        above, frame = frame, frame.f_back
    if inside:
        raise about(
            record,
            ExclusiveError(
                f"this thread is inside a call of {describe(record)} already and would wait for itself: end "
                "the object once that call has returned"
            ),
        )
