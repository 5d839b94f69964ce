"""What runs in steps: iterators, generators, coroutines, and methods that were taken from an object.

Each step goes through the door of the proxy it came from. An iterator or generator takes the pin for a step,
so that closing waits for none that only stands; a coroutine holds it until it is done. What has not come to
its end is known to the object's `Dependents`: it is dropped before the object is released.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from inspect import GEN_CREATED, getgeneratorstate
from types import GeneratorType
from typing import Any

from lifecycle._core.calls import DATA, general, leave_proxy
from lifecycle._core.proxied import Proxy, is_shut, open_pin
from lifecycle.lowlevel import Uncopied
from lifecycle.proxies.dependents import Box
from lifecycle.proxies.rules import ChildRule

Rule = tuple[ChildRule] | None


class GuardedMethod(Uncopied):
    """A method that an object has by other means than its type: calling it goes through the proxy.
    `function`: what is called with the object, where the object has no method of that name."""

    _remedy = "take it from the proxy again"

    __slots__ = ("__name__", "__self__", "_function")

    def __init__(self, proxy: Any, name: str, function: Any = None) -> None:
        self.__self__: Any = proxy
        self.__name__: str = name
        self._function: Any = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        function = self._function
        return general(self.__self__, self.__name__ if function is None else function, args, kwargs)

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is GuardedMethod
            and other.__self__ is self.__self__
            and other.__name__ == self.__name__
            and other._function is self._function
        )

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__name__))

    def __repr__(self) -> str:
        return f"<method {self.__name__} of {self.__self__!r}>"


class _Steps(Uncopied):
    """What the kinds of iterators have in common."""

    _remedy = "ask the proxy for another"

    __slots__ = ("__weakref__", "_box", "_proxy", "_rule")
    _box: Box
    _proxy: Any
    _rule: Rule

    def _step(self, operation: Any, *args: Any) -> Any:
        return general(self._proxy, operation, args, {}, self._box, self._rule)

    def _forget(self) -> None:
        """It has come to its end: nothing is left to drop."""
        boxes = self._proxy._lifecycle_handle._dependents.boxes
        boxes.pop(id(self._box), None)

    def __del__(self) -> None:
        # A generator's ``finally`` uses the object: it runs inside the door, or is left to the release.
        pin = None
        try:
            pin = open_pin(self._proxy)
            if pin is not None:
                self._box.end()
                self._forget()
        except AttributeError:  # an interrupt while it was made
            return
        finally:
            pin = None
        leave_proxy(self._proxy)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._proxy!r}>"


class GuardedIterator(_Steps):
    """An iterator whose steps go through the door; each item is mapped as a result of the proxy."""

    __slots__ = ()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        try:
            return self._step(next)
        except StopIteration:
            self._forget()
            raise

    def __length_hint__(self) -> int:
        hint = getattr(type(self._box.raw), "__length_hint__", None)
        return 0 if hint is None else int(self._step("__length_hint__"))


class GuardedGenerator(GuardedIterator, Generator[Any, Any, Any]):
    """A generator, also one of Cython's, whose steps go through the door. What it returns is mapped as a
    result of the proxy."""

    __slots__ = ()

    def __next__(self) -> Any:
        return self._run(next)

    def send(self, value: Any) -> Any:
        """As of the generator."""
        return self._run("send", value)

    def throw(self, *error: Any) -> Any:
        """As of the generator."""
        return self._run("throw", *error)

    def close(self) -> None:
        """As of the generator. Once the door is shut it is dropped with its object."""
        if not is_shut(self._proxy):
            self._step("close")
            self._forget()

    def _run(self, operation: Any, *args: Any) -> Any:
        value = None
        try:
            return self._step(operation, *args)
        except StopIteration as stop:
            self._forget()
            value = self._box.returned[0] if self._box.returned else stop.value
            if type(value) not in DATA:
                value = general(self._proxy, _as_it_is, (value,), {}, None, self._rule)
        finally:
            args = ()
        try:
            raise StopIteration(value)
        finally:
            value = None  # K3


def _as_it_is(_: object, value: Any) -> Any:
    return value


def _noting(raw: Any, returned: list[Any]) -> Generator[Any, Any, None]:
    """Run the generator `raw` and note what it returns, which is lost where results are stored as they are
    made."""
    returned.append((yield from raw))


class GuardedCoroutine(Uncopied, Coroutine[Any, Any, Any]):
    """A coroutine that holds the object until it is done, whoever awaits it. Its result is mapped as one of
    the proxy."""

    _remedy = "call the method again"

    __slots__ = ("__weakref__", "_lease", "_proxy", "_raw", "_rule")

    def __init__(self, proxy: Any, raw: Any, rule: Rule) -> None:
        try:
            self._lease: Any = proxy._lifecycle_handle.lease()
            self._proxy = proxy
            self._rule = rule
            self._raw = raw
        finally:
            raw = None

    def __await__(self) -> Any:
        return _Awaited(self)

    def send(self, value: Any) -> Any:
        """As of the coroutine."""
        return self._run("send", value)

    def throw(self, *error: Any) -> Any:
        """As of the coroutine."""
        return self._run("throw", *error)

    def close(self) -> None:
        """As of the coroutine."""
        try:
            if self._raw is not None:
                self._raw.close()
        finally:
            self._end()

    def _run(self, operation: str, *args: Any) -> Any:
        value = pin = None
        if self._raw is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        try:
            return getattr(self._raw, operation)(*args)
        except StopIteration as stop:
            value = stop.value
            pin = self._lease._pin
            proxy = self._proxy
            results = proxy._lifecycle_node.results
            try:
                if self._rule is not None:
                    value = results.by_rule(proxy, pin, value, self._rule[0])
                else:
                    how = results[type(value)]
                    value = value if how is None else how(proxy, pin, value)
            finally:
                pin = None
                self._end()
        except BaseException:
            self._end()
            raise
        finally:
            pin = None
        try:
            raise StopIteration(value)
        finally:
            value = None

    def _end(self) -> None:
        self._raw = None
        self._lease.__exit__(None, None, None)
        leave_proxy(self._proxy)

    def __del__(self) -> None:
        try:
            self._end()  # one that was never awaited says so itself, when it goes
        except AttributeError:
            return

    def __repr__(self) -> str:
        return f"<GuardedCoroutine of {self._proxy!r}>"


class _Awaited(Generator[Any, Any, Any]):
    """What ``await`` steps through."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: GuardedCoroutine) -> None:
        self._coroutine = coroutine

    def __next__(self) -> Any:
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()


class GuardedAsyncGenerator(_Steps, AsyncGenerator[Any, Any]):
    """An asynchronous generator or iterator: each step holds the object until it is done."""

    __slots__ = ()

    def __aiter__(self) -> Any:
        return self

    def __anext__(self) -> Any:
        return self._later("__anext__")

    def asend(self, value: Any) -> Any:
        """As of the generator."""
        return self._later("asend", value)

    def athrow(self, *error: Any) -> Any:
        """As of the generator."""
        return self._later("athrow", *error)

    def aclose(self) -> Any:
        """As of the generator."""
        return self._later("aclose")

    def _later(self, operation: str, *args: Any) -> GuardedCoroutine:
        raw = None
        lease = self._proxy._lifecycle_handle.lease()
        try:
            raw = getattr(self._box.raw, operation)(*args)
            return GuardedCoroutine(self._proxy, raw, self._rule)
        finally:
            raw = None  # K3
            lease.__exit__(None, None, None)


def in_steps(kind: Any, proxy: Proxy, raw: Any, rule: Rule) -> Any:
    """An object of one of the classes above that runs `raw`."""
    steps: Any = None
    box = Box(raw)
    try:
        # One that was begun cannot be run by another: it would take the first value sent for its beginning.
        if (
            proxy._lifecycle_node.owns
            and type(raw) is GeneratorType
            and getgeneratorstate(raw) == GEN_CREATED
        ):
            box.raw = _noting(raw, box.returned)
        proxy._lifecycle_handle._dependents.boxes[id(box)] = box
        steps = kind.__new__(kind)
        steps._rule = rule
        steps._proxy = proxy
        steps._box = box
        return steps
    finally:
        raw = box = steps = None  # type: ignore[assignment]  # K3
