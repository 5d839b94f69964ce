"""What keeps itself alive, by its own handle, is reported with the way there; what somebody keeps is not."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle._core.selfkept import keeps_itself
from lifecycle.observe import leaks
from tests.support import eventually


class Native:
    """Stands for a native object."""


class ByRelease:
    """Is the release's object, and keeps the handle."""

    def __init__(self, manager: SafetyManager) -> None:
        self.handle = manager.register(Native(), "stream", release=self.on_end, release_on=ANY_THREAD)

    def on_end(self, native: Native) -> None:
        """The release."""


class ByObject:
    """Is registered itself, and keeps the handle in a container."""

    def __init__(self, manager: SafetyManager) -> None:
        self.handles: list[Handle[Any]] = []
        self.handles.append(manager.register(self, "object", release=ByObject.end, release_on=ANY_THREAD))

    def end(self) -> None:
        """The release."""


class ByCleanup:
    """Is called by a cleanup."""

    def __init__(self, manager: SafetyManager) -> None:
        self.handle = manager.register(
            Native(), "cleaned", release=lambda native: None, release_on=ANY_THREAD
        )
        manager.add_cleanup(self.handle, self.clean)

    def clean(self) -> None:
        """The cleanup."""


class ByArgument:
    """Keeps the handle, and is kept by `keep_alive`."""

    def __init__(self, manager: SafetyManager) -> None:
        self.handle = manager.register(
            Native(), "argument", release=lambda native: None, release_on=ANY_THREAD, keep_alive=self
        )


class WithItsManager:
    """Keeps the manager as well, which refers to everything."""

    def __init__(self, manager: SafetyManager) -> None:
        self.manager = manager
        self.handle = manager.register([self.on_end], "with", release=list.clear, release_on=ANY_THREAD)

    def on_end(self) -> None:
        """Called by the native."""


class Stream:
    """Is behind a proxy, and is given what it calls."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def close(self) -> None:
        """The release."""


class ByProxy:
    """Gives its method to an object that it keeps a proxy of."""

    def __init__(self, manager: SafetyManager) -> None:
        self.stream = manager.proxy(Stream(self.on_audio), release="close")

    def on_audio(self) -> None:
        """Called by the stream."""


KINDS: dict[Callable[[SafetyManager], Any], str] = {
    ByRelease: "ByRelease.on_end and ByRelease.handle",
    ByObject: "ByObject",
    ByCleanup: "ByCleanup.clean",
    ByArgument: "ByArgument.handle",
    WithItsManager: "WithItsManager.on_end and WithItsManager.handle",
    ByProxy: "Stream.call and ByProxy.on_audio and ByProxy.stream",
}


def the_record(manager: SafetyManager) -> Any:
    (info,) = manager.objects()
    return manager._registry.records[info.id]


@pytest.fixture
def closed(manager: SafetyManager) -> Iterator[SafetyManager]:
    yield manager
    for info in manager.objects():
        manager.unregister(info.id)


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_is_told(closed: SafetyManager, kind: Callable[[SafetyManager], Any]) -> None:
    kind(closed)
    gc.collect()
    assert KINDS[kind] in keeps_itself(the_record(closed))


@pytest.mark.parametrize("kind", KINDS)
def test_what_somebody_keeps_is_not_told(closed: SafetyManager, kind: Callable[[SafetyManager], Any]) -> None:
    mine = kind(closed)
    assert keeps_itself(the_record(closed)) == ""
    box = [mine]
    del mine
    assert keeps_itself(the_record(closed)) == ""
    box.clear()


def test_other_shares_are_somebody(closed: SafetyManager) -> None:
    handle = ByRelease(closed).handle.share()
    gc.collect()
    assert keeps_itself(the_record(closed)) == ""
    handle.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_share_that_was_dropped_is_nobody(closed: SafetyManager) -> None:
    kept = ByRelease(closed)
    dropped = kept.handle.share()
    del dropped
    assert keeps_itself(the_record(closed)) == ""
    del kept
    gc.collect()
    assert KINDS[ByRelease] in keeps_itself(the_record(closed))
    handle = closed.handle(the_record(closed).id)
    assert keeps_itself(the_record(closed)) == ""
    handle.close()


def test_what_the_manager_keeps_is_not_told(closed: SafetyManager) -> None:
    closed.register(Native(), "kept", release=lambda native: None, release_on=ANY_THREAD, keep=True)
    assert keeps_itself(the_record(closed)) == ""


def test_an_open_handle_of_a_variable_is_not_told(closed: SafetyManager) -> None:
    handle = closed.register(Native(), "plain", release=lambda native: None, release_on=ANY_THREAD)
    assert keeps_itself(the_record(closed)) == ""
    handle.close()


@pytest.mark.parametrize("when", ["soon", "in a round"])
def test_it_is_reported_while_the_program_runs_once(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(leaks, "KEEPS_ITSELF_AFTER", 0.05)
    monkeypatch.setattr(leaks, "LOOK_TWICE", 0.05)
    if when == "in a round":
        monkeypatch.setattr(leaks, "WALK_EVERY", 0.05)
        monkeypatch.setattr(leaks, "YOUNG", 0)
    told: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with SafetyManager(name="selfkept") as manager:
            manager.add_leak_hook(told.append)
            mine = ByRelease(manager)
            ByRelease(manager)
            eventually(lambda: bool(told))
            manager.stats()
            (event,) = told
            assert "ByRelease.on_end" in event.reason
            assert event.type_name == "stream"
            assert event.id != mine.handle.id
            for info in manager.objects():
                manager.unregister(info.id)
