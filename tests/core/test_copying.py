"""What owns something is there once: copied, deep-copied or pickled it would be ended twice. So all of it
refuses."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import importlib
import inspect
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

import lifecycle
from lifecycle import (
    ANY_THREAD,
    BufferPool,
    CleanupGuard,
    CleanupStack,
    EventFence,
    FrameDistributor,
    FutureFence,
    MemoryManager,
    ObjectLifecycleManager,
    ObjectPool,
    Profiler,
    ReleaseQueue,
    SafetyManager,
    SharedCleanupGuard,
    Timeline,
)
from lifecycle.distribution import derived_from
from lifecycle.fences import ProcessFence

PROTOCOLS = {"Fence", "Shareable", "Closeable"}
"""What others implement: nothing of ours to copy."""
FUNCTIONS = {"Sink": "a function in another dress, which owns nothing between its calls"}
"""Copied by design, and why."""


@dataclasses.dataclass
class Job:
    """An object of the user's that keeps something of ours."""

    kept: Any


@attrs.define
class Task:
    """The same with attrs."""

    kept: Any


DUPLICATES: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "dataclasses.asdict": lambda one: dataclasses.asdict(Job(one)),
    "deepcopy of its owner": lambda one: copy.deepcopy(Task(one)),
    "deepcopy of a dict": lambda one: copy.deepcopy({"kept": one}),
}


def owners(module: str) -> list[type]:
    """The public classes of `module` that are neither errors nor values nor protocols."""
    public = importlib.import_module(module)
    found = [getattr(public, name) for name in public.__all__]
    return [
        cls
        for cls in found
        if inspect.isclass(cls)
        and not issubclass(cls, BaseException)
        and not attrs.has(cls)
        and not hasattr(cls, "__members__")
        and cls.__name__ not in PROTOCOLS | FUNCTIONS.keys()
    ]


@pytest.mark.parametrize(
    "module",
    [
        "lifecycle",
        pytest.param("lifecycle.integrations.gstreamer", marks=pytest.mark.needs("gstreamer")),
        pytest.param("lifecycle.integrations.prometheus", marks=pytest.mark.needs("prometheus_client")),
    ],
)
def test_every_public_class_that_owns_something_refuses(module: str) -> None:
    found = owners(module)
    assert found
    for cls in found:
        if issubclass(cls, (lifecycle.Handle, lifecycle.FrameReceiver)):
            continue  # its message names its object, which a bare one has not: see `test_each_in_use`
        bare = cls.__new__(cls)  # as one that an interrupt left half made
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                bare.__reduce_ex__(protocol)
        for duplicate in (copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(bare)


@pytest.fixture
def made(manager: SafetyManager) -> Iterator[dict[str, Any]]:
    """One of everything that the core has, in use."""
    with contextlib.ExitStack() as ends:
        handle: lifecycle.Handle[list[object]] = ends.enter_context(
            manager.register([], "list", release=list.clear, release_on=ANY_THREAD)
        )
        stack = ends.enter_context(CleanupStack())
        stack.callback(int)
        distributor: FrameDistributor[object] = ends.enter_context(FrameDistributor(4))
        receiver = ends.enter_context(distributor.subscribe())
        memory = ends.enter_context(MemoryManager(manager))
        buffers = ends.enter_context(BufferPool(manager, 100, 2))
        loan = ends.enter_context(buffers.get())
        event = SimpleNamespace(is_set=lambda: True, wait=lambda timeout: True)
        future = SimpleNamespace(done=lambda: True, cancelled=lambda: False)
        target = Job(None)
        finalizer = manager.set_safe_finalizer(target, int)
        derived = ends.enter_context(derived_from(manager, handle))
        lease = handle.lease()
        ends.callback(lease.close)
        yield {
            "guard": ends.enter_context(CleanupGuard(int)),
            "shared guard": ends.enter_context(SharedCleanupGuard(int)),
            "stack": stack,
            "handle": handle,
            "weak handle": handle.weak(),
            "lease": lease,
            "exclusive": handle.exclusive(),
            "distributor": distributor,
            "receiver": receiver,
            "loop": iter(receiver),
            "memory": memory,
            "reservation": ends.enter_context(memory.reserve(10)),
            "objects": ends.enter_context(ObjectLifecycleManager(manager)),
            "buffers": buffers,
            "loan": loan,
            "pool of objects": ends.enter_context(ObjectPool(manager, list, size=1)),
            "profiler": Profiler(manager),
            "event fence": EventFence(event),
            "future fence": FutureFence(future),
            "process fence": ProcessFence(1),
            "timeline": Timeline("gpu"),
            "submission": Timeline("gpu", fence=list).submission(),
            "queue": ReleaseQueue("gl"),
            "finalizer": finalizer,
            "stop token": manager.stopping,
            "derived": derived,
            "manager": manager,
        }
        finalizer.cancel()


def test_each_in_use(made: dict[str, Any]) -> None:
    for what, one in made.items():
        for how, duplicate in DUPLICATES.items():
            with pytest.raises(TypeError, match=r"cannot be .*[:;] "):
                pytest.fail(f"{what}: {how} gave {duplicate(one)!r}")


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_the_action_runs_once(duplicate: Callable[[Any], object]) -> None:
    for make in (CleanupGuard, SharedCleanupGuard, stack_of):
        ran: list[int] = []
        guard = make(functools.partial(ran.append, 1))
        other = None
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            other = duplicate(guard)
        guard.close()
        del guard, other
        gc.collect()
        assert ran == [1], make


def stack_of(fn: Callable[[], object]) -> CleanupStack:
    """A stack with one cleanup."""
    stack = CleanupStack()
    stack.callback(fn)
    return stack
