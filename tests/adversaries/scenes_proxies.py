"""Scenes of proxies: calls, children, ends, steps, memory."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from lifecycle import AccessRefusedError, LifecycleError
from lifecycle._core.proxied import LightHandle, LightLease, ProxyHandle
from lifecycle.proxies import VIEW, Child, handle_of
from lifecycle.proxies.steps import (
    GuardedAsyncGenerator,
    GuardedCoroutine,
    GuardedGenerator,
    GuardedIterator,
    GuardedMethod,
)
from tests.adversaries.stage import PLACES, Native, Stage, Table
from tests.core.adversary import TRACING_KEEPS_LOCALS

TABLE = Table()
scene = TABLE.scene

MODULES = ("lifecycle.proxies",)
RETURNED = (
    GuardedAsyncGenerator,
    GuardedCoroutine,
    GuardedGenerator,
    GuardedIterator,
    GuardedMethod,
    LightHandle,
    LightLease,
    ProxyHandle,
)
REFUSED = ("__enter__", "__exit__", "close", "detach", "exclusive", "release_after", "share", "weak")
"""What the handle of a light child refuses."""
COUNTS = not TRACING_KEEPS_LOCALS
"""As in `scenes_core`."""


class Device(Native):
    """A native with children and steps."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def part(self) -> Native:
        self.use()
        return self.stage.native()

    def note(self) -> Note:
        return Note(self)

    def steps(self) -> Iterator[int]:
        for number in range(3):
            self.use()
            yield number

    def items(self) -> Any:
        return iter([1, 2, 3])

    async def later(self) -> int:
        return self.use()

    async def async_steps(self) -> Any:
        yield self.use()

    def bound(self) -> Any:
        return self.use

    def view(self) -> memoryview:
        return memoryview(self.memory)

    def end(self) -> None:
        """Another end than `free`."""
        self.released += 1


class Note:
    """A child without a release."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def read(self) -> int:
        return self.device.use()


RULES: dict[Any, Any] = {Native: "free", Note: None, "view": VIEW}


def device(stage: Stage) -> Device:
    """A new native, known to the stage."""
    made = Device(stage)
    stage.natives.append(made)
    stage.seen.append(weakref.ref(made))
    return made


def proxied(stage: Stage, **rules: Any) -> Any:
    """A proxy, which the stage closes."""
    rules.setdefault("children", RULES)
    proxy = stage.manager.proxy(device(stage), release="free", release_on=stage.where, **rules)
    stage.keep(handle_of(proxy))
    return proxy


def with_proxy(stage: Stage) -> None:
    stage.props.proxy = proxied(stage)


@scene("SafetyManager.proxy", "proxies.handle_of", places=PLACES)
def proxy(stage: Stage) -> None:
    made = proxied(stage)
    made.use()
    assert len(made.memory) == 64


@scene("SafetyManager.proxy_factory", places=PLACES)
def proxy_factory(stage: Stage) -> None:
    make = stage.manager.proxy_factory(lambda: device(stage), release="free", release_on=stage.where)
    stage.keep(handle_of(make())).close(timeout=0)


@scene("ProxyHandle.close", prepare=with_proxy, places=PLACES)
def proxy_closed(stage: Stage) -> None:
    stage.props.proxy.use()
    stage.props.proxy.free()
    with contextlib.suppress(AccessRefusedError):
        stage.props.proxy.use()


@scene("ProxyHandle.close", "ProxyHandle.__exit__", prepare=with_proxy, places=PLACES)
def proxy_in_a_block(stage: Stage) -> None:
    with handle_of(stage.props.proxy) as handle:
        stage.props.proxy.use()
        stage.props.part = stage.props.proxy.part()
        assert handle.valid in (True, False)


@scene("ProxyHandle.close", prepare=with_proxy, places=PLACES)
def proxy_with_children(stage: Stage) -> None:
    part = stage.props.part = stage.props.proxy.part()
    part.use()
    stage.props.proxy.note().read()
    stage.props.proxy.free()


@scene("ProxyHandle.close", prepare=with_proxy)
def proxy_child_dropped(stage: Stage) -> None:
    stage.props.proxy.part().use()


@scene(
    "LightHandle.lease",
    *(f"LightHandle.{name}" for name in REFUSED),
    "LightHandle.__repr__",
    "LightLease.__enter__",
    "LightLease.__exit__",
    "LightLease.close",
    "LightLease.__repr__",
    prepare=with_proxy,
)
def light_child(stage: Stage) -> None:
    note = stage.props.note = stage.props.proxy.note()
    handle = handle_of(note)
    repr(handle)
    lease = stage.keep(handle.lease())
    repr(lease)
    with lease as raw:
        raw.read()
    stage.keep(handle.lease()).close()
    for name in REFUSED:
        with contextlib.suppress(LifecycleError):
            getattr(handle, name)()


def with_ends(stage: Stage) -> None:
    stage.props.proxy = proxied(stage, ends=("end",))


@scene("ProxyHandle.close", prepare=with_ends, places=PLACES, interrupts=COUNTS, lines=COUNTS)
def proxy_ended(stage: Stage) -> None:
    stage.props.proxy.note()
    with contextlib.suppress(LifecycleError):
        stage.props.proxy.end()


@scene(prepare=lambda stage: setattr(stage.props, "proxy", proxied(stage, exclusive=True)))
def proxy_one_at_a_time(stage: Stage) -> None:
    stage.props.proxy.use()


@scene(
    "GuardedGenerator.__next__",
    "GuardedGenerator.send",
    "GuardedGenerator.throw",
    "GuardedGenerator.close",
    "GuardedIterator.__iter__",
    "GuardedIterator.__next__",
    "GuardedIterator.__length_hint__",
    "_Steps.__del__",
    "_Steps.__repr__",
    prepare=with_proxy,
)
def steps(stage: Stage) -> None:
    steps = stage.props.proxy.steps()
    repr(steps)
    next(iter(steps))
    steps.send(None)
    steps.close()
    thrown = stage.props.proxy.steps()
    next(thrown)
    with contextlib.suppress(OSError):
        thrown.throw(OSError())
    items = stage.props.proxy.items()
    list(items)
    del steps, thrown, items


@scene(
    "GuardedCoroutine.__init__",
    "GuardedCoroutine.__await__",
    "GuardedCoroutine.__del__",
    "GuardedCoroutine.__repr__",
    "GuardedCoroutine.close",
    "GuardedCoroutine.send",
    "GuardedCoroutine.throw",
    "GuardedAsyncGenerator.__aiter__",
    "GuardedAsyncGenerator.__anext__",
    "GuardedAsyncGenerator.aclose",
    "GuardedAsyncGenerator.asend",
    "GuardedAsyncGenerator.athrow",
    prepare=with_proxy,
    interrupts=False,  # an interrupt in the middle of a coroutine leaves one that CPython warns of
)
def coroutines(stage: Stage) -> None:
    proxy = stage.props.proxy
    later = proxy.later()
    repr(later)
    drive(later.__await__())
    thrown = proxy.later()
    with contextlib.suppress(OSError):
        thrown.throw(OSError())
    proxy.later().close()
    del later, thrown
    agen = proxy.async_steps()
    drive(agen.__aiter__().__anext__())
    drive(agen.asend(None))
    drive(agen.athrow(OSError()))
    drive(agen.aclose())


def drive(one: Any) -> None:
    """To its end, whichever."""
    with contextlib.suppress(StopIteration, StopAsyncIteration, OSError):
        while True:
            one.send(None)


@scene(
    "GuardedMethod.__init__",
    "GuardedMethod.__call__",
    "GuardedMethod.__eq__",
    "GuardedMethod.__hash__",
    "GuardedMethod.__repr__",
    prepare=with_proxy,
)
def bound_method(stage: Stage) -> None:
    method = stage.props.proxy.bound()
    method()
    repr(method)
    assert method == stage.props.proxy.bound()
    hash(method)


@scene(prepare=with_proxy, places=PLACES)
def memory_of_a_proxy(stage: Stage) -> None:
    stage.props.view = stage.props.proxy.view()[2:4]
    stage.props.proxy.free()
    stage.props.view = None


@scene("ProxyHandle.close", prepare=with_proxy)
def rules_of_a_child(stage: Stage) -> None:
    other = proxied(stage, children={Native: Child("free", ends=("use",))})
    stage.props.part = other.part()
    other.free()
