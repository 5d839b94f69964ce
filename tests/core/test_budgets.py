"""What the hot paths may cost, in bytecodes of the library: no load of the machine changes that figure."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from lifecycle import ANY_THREAD, SafetyConfig, SafetyManager
from lifecycle._core import runtime
from lifecycle.testing.interrupts import OpcodeTracing
from lifecycle.testing.where import library

# Stores that are watched are calls.
pytestmark = pytest.mark.unwatched

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}{'t' if runtime.free_threaded else ''}"
BUDGETS = {
    #        register + close, registrar + close, lease, safe_access, exclusive, share + close
    "3.10": (588, 496, 60, 69, 155, 264),
    "3.11": (566, 483, 51, 58, 144, 254),
    "3.12": (546, 468, 48, 56, 138, 239),
    "3.13": (553, 464, 46, 55, 138, 236),
    "3.13t": (605, 516, 46, 55, 148, 236),
}
"""At most so many, by CPython's version. One that is not listed has those of the last and a tenth more."""


class Native:
    """Stands for a native object."""

    __slots__ = ("__weakref__",)


def nothing(native: Native) -> None:
    """A release, and what an access does."""


def bytecodes(run: Callable[[], object]) -> int:
    """How many bytecodes of the library one call of ``run()`` takes on this thread: the least of several,
    since one in so many does a share of what is common to all."""
    opcodes = OpcodeTracing()
    number = 0

    def local(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal number
        number += event == "opcode"
        return local

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not library(frame.f_code):
            return None
        opcodes.of(frame, local)
        return local

    counts = []
    outer = sys.gettrace()
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(8):
            number = 0
            sys.settrace(trace)
            run()
            sys.settrace(outer)
            counts.append(number)
    finally:
        sys.settrace(outer)
        opcodes.end()
        if collects:
            gc.enable()
    return min(counts)


@pytest.fixture
def manager() -> Iterator[SafetyManager]:
    with SafetyManager(SafetyConfig(leak_level="off"), name="budgets") as made:
        made.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()
        yield made


@pytest.mark.skipif("coverage" in repr(sys.gettrace()), reason="coverage traces the same frames")
def test_hot_paths_keep_their_budgets(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    alone = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    shared = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    registrar = manager.registrar("native", release=nothing, release_on=ANY_THREAD)

    def register_and_close() -> None:
        manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()

    def registrar_and_close() -> None:
        registrar(Native(), None, 0).close()

    def lease() -> None:
        with handle.lease():
            pass

    def safe_access() -> None:
        manager.safe_access(handle, nothing)

    def exclusive() -> None:
        with alone.exclusive():
            pass

    def share_and_close() -> None:
        shared.share().close()

    exclusive()  # the first has more to do
    share_and_close()
    paths = (register_and_close, registrar_and_close, lease, safe_access, exclusive, share_and_close)
    found = {path.__name__: bytecodes(path) for path in paths}
    *_, last = BUDGETS.values()
    allowed = BUDGETS.get(PYTHON, tuple(most * 11 // 10 for most in last))
    over = {
        name: f"{count} bytecodes, of which {most} are allowed"
        for (name, count), most in zip(found.items(), allowed, strict=True)
        if count > most
    }
    assert not over, f"on {PYTHON}: {over} (all: {found})"
    # A budget far above what is needed would notice nothing, and so would a counter that counts nothing.
    assert all(count > most * 0.9 for count, most in zip(found.values(), allowed, strict=True)) or (
        PYTHON not in BUDGETS
    ), f"on {PYTHON}: {found} where {allowed} are allowed: lower the budgets"
    handle.close()
    alone.close()
    shared.close()
