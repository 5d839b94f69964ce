"""Threads made to meet: one that stands still before a line, switches as often as can be, all at once."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import inspect
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def line_of(function: Any, text: str) -> tuple[CodeType, int]:
    """The code of `function` and the number of its only line that contains `text`."""
    while isinstance(function, (MethodType, functools.partial, property)):
        function = getattr(function, "__func__", None) or getattr(function, "func", None) or function.fget  # type: ignore[union-attr]
    assert isinstance(function, FunctionType), f"not a Python function: {function!r}"
    lines, start = inspect.getsourcelines(function)
    found = [start + number for number, line in enumerate(lines) if text in line]
    assert len(found) == 1, f"{len(found)} lines of {function.__qualname__} contain {text!r}"
    return function.__code__, found[0]


class Standing(Generic[T]):
    """A thread that calls ``target()`` and stands still before a line of `function` – the only one that
    contains `line` – until the block ends or `go` is called. Entering the block waits until it stands there.

    `result` joins the thread and gives what `target` returned, or raises what it raised.
    """

    def __init__(self, target: Callable[[], T], function: Any, line: str, *, patience: float = 30.0) -> None:
        self._target = target
        self._code, self._line = line_of(function, line)
        self._patience = patience
        self._arrived = threading.Event()
        self._go = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        def local(frame: FrameType, event: str, arg: object) -> Any:
            if event == "line" and frame.f_lineno == self._line and not self._arrived.is_set():
                self._arrived.set()
                self._go.wait(self._patience)
            return local

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            return local if frame.f_code is self._code else None

        sys.settrace(trace)
        try:
            self._result = self._target()
        except BaseException as error:
            self._error = error
        finally:
            sys.settrace(None)

    def __enter__(self) -> Standing[T]:
        self._thread.start()
        until = time.monotonic() + self._patience
        while not self._arrived.wait(0.002):
            assert self._thread.is_alive(), f"it ended without coming to line {self._line}: {self._error!r}"
            assert time.monotonic() < until, f"it never came to line {self._line}"
        return self

    def go(self) -> None:
        """Let it run on."""
        self._go.set()

    def result(self) -> T:
        """Let it run on to its end; what it returned or raised."""
        self._go.set()
        self._thread.join(self._patience)
        assert not self._thread.is_alive(), "it did not come to its end"
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go.set()
        self._thread.join(self._patience)


@contextlib.contextmanager
def switching(interval: float = 1e-6) -> Iterator[None]:
    """Change threads every `interval` seconds, as far as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(*actions: Callable[[], object], patience: float = 90.0) -> None:
    """Call all `actions`, each on a thread of its own, from one moment on; raises what one of them raised,
    and fails, with every thread's stack on stderr, when they do not end."""
    start = threading.Barrier(len(actions))
    errors: deque[BaseException] = deque()

    def act(action: Callable[[], object]) -> None:
        try:
            start.wait(patience)
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=act, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        faulthandler.dump_traceback(all_threads=True)
        raise AssertionError(
            f"not at their end within {patience:g} s: {[t.name for t in threads if t.is_alive()]}"
        )
    for error in errors:
        raise error
