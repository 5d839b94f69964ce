"""What frees its native in its own deallocation: it is released when it is gone, and kept while others refer
to it."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    DROPPED,
    HeldError,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    ShutdownReport,
)
from lifecycle._core import runtime
from lifecycle._core.dropped import watch
from lifecycle.errors import DuplicateError
from lifecycle.proxies import Child
from tests.support import eventually, run_python

PLACES = ["any_thread", "background", "queue"]


class Dataset:
    """Frees its native when it is deallocated, and notes on which thread that is."""

    freed: list[int]

    def __init__(self, freed: list[int]) -> None:
        self.freed = freed
        self.me: object = None

    def band(self) -> Dataset:
        """Another one, that frees itself as well."""
        return Dataset(self.freed)

    def __del__(self, thread: Callable[[], int] = threading.get_ident) -> None:
        self.freed.append(thread())  # also at exit, where this module has no `threading` any more


class Hidden:
    """As an extension's type: cannot be referred to weakly."""

    __slots__ = ("freed", "me")

    def __init__(self, freed: list[int]) -> None:
        self.freed = freed
        self.me: object = None

    def __del__(self, thread: Callable[[], int] = threading.get_ident) -> None:
        self.freed.append(thread())


class Box:
    """Something of the program's that has one."""

    dataset: Dataset


KINDS = [Dataset, Hidden]


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest) -> Any:
    queue = ReleaseQueue("dropped", thread="current")
    return {"any_thread": ANY_THREAD, "background": BACKGROUND, "queue": queue}[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_released_by_letting_go_of_it(manager: SafetyManager, where: Any, kind: type) -> None:
    freed: list[int] = []
    handle = manager.register(kind(freed), "dataset", release=DROPPED, release_on=where)
    assert handle.close(timeout=20)
    assert handle.state == "released"
    if kind is Dataset or not runtime.free_threaded:  # the thread that made it lets it die there
        assert len(freed) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_while_others_refer_to_it_it_is_kept_and_they_are_named(
    manager: SafetyManager, where: Any, kind: type
) -> None:
    freed: list[int] = []
    dataset = kind(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=where)
    assert handle.close() is False
    assert (handle.state, freed) == ("kept", [])
    (holder, *_) = handle.holders()
    assert holder.kind == "reference"
    assert "'dataset'" in str(holder)
    assert manager.stats().active_objects == 1
    assert manager.stats().types["dataset"].states["kept"] == 1
    del dataset
    assert handle.close(timeout=20)
    eventually(lambda: len(freed) == 1)
    assert handle.state == "released"
    assert handle.holders() == ()
    assert manager.stats().active_objects == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_without_another_call(manager: SafetyManager, kind: type) -> None:
    """A weak reference tells of it, or a worker looks."""
    freed: list[int] = []
    dataset = kind(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=ANY_THREAD)
    handle.close()
    del dataset
    eventually(lambda: handle.state == "released")
    eventually(lambda: len(freed) == 1)


def test_at_a_place_the_last_reference_is_the_librarys(manager: SafetyManager) -> None:
    freed: list[int] = []
    dataset = Dataset(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED)
    handle.close()
    del dataset
    assert handle.close(timeout=20)
    if not runtime.free_threaded:
        assert freed != [threading.get_ident()]


def test_a_lease_that_leaves_its_variable_behind(manager: SafetyManager) -> None:
    freed: list[int] = []
    handle = manager.register(Dataset(freed), "dataset", release=DROPPED, release_on=ANY_THREAD)
    with handle.lease() as dataset:
        assert isinstance(dataset, Dataset)
    assert handle.close() is False
    assert handle.state == "kept"
    assert any("'dataset'" in str(holder) for holder in handle.holders())
    del dataset
    eventually(lambda: handle.state == "released")


def test_cleanups_run_before_it_goes_once(manager: SafetyManager, where: Any) -> None:
    freed: list[int] = []
    said: list[object] = []
    dataset = Dataset(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=where)
    manager.add_cleanup(handle, said.append, "cleanup")
    handle.close()
    del dataset
    assert handle.close(timeout=20)
    assert said == ["cleanup"]


def test_its_parent_waits_for_it(manager: SafetyManager) -> None:
    freed: list[int] = []
    ends: list[object] = []
    parent = manager.register("file", "file", release=ends.append, release_on=ANY_THREAD)
    dataset = Dataset(freed)
    child = manager.register(dataset, "dataset", release=DROPPED, release_on=ANY_THREAD, parent=parent)
    child.close()
    parent.close()
    assert (child.state, ends) == ("kept", [])
    del dataset
    eventually(lambda: ends == ["file"])
    assert child.state == "released"


def test_a_cycle_of_its_own_is_collected(manager: SafetyManager, where: Any) -> None:
    freed: list[int] = []
    dataset = Dataset(freed)
    dataset.me = [dataset]
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=where)
    del dataset
    assert handle.close(timeout=20)
    assert len(freed) == 1


def test_what_cannot_be_told_is_no_release(manager: SafetyManager) -> None:
    """sqlite3's connections refer to themselves, by their caches, and cannot be referred to weakly."""
    freed: list[int] = []
    hidden = Hidden(freed)
    hidden.me = hidden
    handle = manager.register(hidden, "hidden", release=DROPPED, release_on=ANY_THREAD)
    del hidden
    assert handle.close() is False
    assert handle.state == "failed"
    assert 'release="close"' in manager.close().failed[0].reason


def test_a_connection_is_said_to_want_its_close(manager: SafetyManager) -> None:
    handle = manager.register(
        sqlite3.connect(":memory:", check_same_thread=False),
        "connection",
        release=DROPPED,
        release_on=ANY_THREAD,
    )
    handle.close(timeout=20)
    assert handle.state in ("failed", "released")  # whether it refers to itself differs between versions


def test_a_cycle_with_others_is_kept(manager: SafetyManager) -> None:
    """It refers to itself, and somebody else refers to what it reaches and leads back."""
    freed: list[int] = []
    dataset = Dataset(freed)
    box = [dataset]
    dataset.me = box
    handle = manager.register(dataset, "dataset", release=DROPPED)
    del dataset
    handle.close()
    assert (handle.state, freed) == ("kept", [])
    box.clear()
    assert handle.close(timeout=20)


def test_close_that_refuses_counts_raw_references(manager: SafetyManager) -> None:
    freed: list[int] = []
    dataset = Dataset(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=ANY_THREAD)
    with pytest.raises(HeldError, match="'dataset'"):
        handle.close(held="refuse")
    assert handle.valid
    del dataset
    gc.collect()
    assert handle.close(held="refuse")


def test_its_native_has_an_owner_while_it_is_kept_and_none_after(manager: SafetyManager) -> None:
    freed: list[int] = []
    dataset = Dataset(freed)
    address = 0x7F00_0000_1000
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=ANY_THREAD, native=address)
    handle.close()
    with pytest.raises(DuplicateError, match="is released when nothing refers to it"):
        manager.register(object(), "other", release=lambda obj: None, native=address)
    with pytest.raises(DuplicateError):
        manager.register(dataset, "dataset", release=DROPPED, release_on=ANY_THREAD)
    del dataset
    manager.register(object(), "other", release=lambda obj: None, native=address).close(timeout=20)
    for _ in range(200):  # identities that are used again
        manager.register(Dataset(freed), "dataset", release=DROPPED, release_on=ANY_THREAD).close()
    eventually(lambda: handle.state == "released")


def test_factory_registrar_and_proxy_take_it(manager: SafetyManager) -> None:
    freed: list[int] = []
    made = manager.factory(Dataset, "dataset", release=DROPPED, release_on=ANY_THREAD)(freed)
    assert made.close(timeout=20)
    registrar = manager.registrar("dataset", release=DROPPED, release_on=ANY_THREAD)
    registered = registrar(Dataset(freed), None, 0)
    assert registered.close(timeout=20)
    proxy = manager.proxy(Dataset(freed), release=DROPPED, children={"band": DROPPED})
    band = proxy.band()
    del band
    gc.collect()
    eventually(lambda: len(freed) == 3)
    del proxy
    gc.collect()
    eventually(lambda: len(freed) == 4)
    assert Child(DROPPED).release is DROPPED


@pytest.mark.parametrize("number", [7, "text", None, (1, 2)])
def test_what_has_no_deallocation_of_its_own_is_refused(manager: SafetyManager, number: Any) -> None:
    with pytest.raises(RegistrationError, match="DROPPED takes an object"):
        manager.register(number, "number", release=DROPPED)


def test_a_detached_object_is_the_callers(manager: SafetyManager) -> None:
    freed: list[int] = []
    handle = manager.register(Dataset(freed), "dataset", release=DROPPED)
    dataset = handle.detach()
    assert (handle.state, freed) == ("detached", [])
    del dataset
    gc.collect()
    assert len(freed) == 1


def test_a_lost_queue_keeps_it_for_ever(manager: SafetyManager) -> None:
    freed: list[int] = []
    queue = ReleaseQueue("lost", thread="current")
    dataset = Dataset(freed)
    alive = weakref.ref(dataset)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=queue)
    handle.close()
    assert handle.state == "kept"
    queue.lost("context destroyed")
    del dataset
    gc.collect()
    assert (handle.state, freed) == ("orphaned", [])
    assert alive() is not None
    alive().freed = []  # type: ignore[union-attr]


def test_what_is_kept_is_leaked_at_the_end_and_named(where: Any) -> None:
    freed: list[int] = []
    manager = SafetyManager(name="ends")
    dataset = Dataset(freed)
    handle = manager.register(dataset, "dataset", release=DROPPED, release_on=where)
    handle.close()
    began = time.monotonic()
    report: ShutdownReport = manager.close()
    assert time.monotonic() - began < manager.config.shutdown_timeout  # others are not waited for
    assert [info.state for info in report.leaked] == ["kept"]
    assert "'dataset'" in report.leaked[0].reason
    assert (report.stuck, report.failed) == ((), ())
    del dataset
    assert handle.close(timeout=20)  # its threads live as long as that


def test_kept_for_long_it_is_reported_and_a_problem_of_health() -> None:
    told: list[Any] = []
    with SafetyManager(SafetyConfig(log_finalizers=False), name="reported") as manager:
        manager.add_observer(lambda event: told.append(event) if event.kind == "kept" else None)
        freed: list[int] = []
        box = Box()
        box.dataset = Dataset(freed)
        handle = manager.register(box.dataset, "dataset", release=DROPPED)
        handle.close()
        assert manager.health().ok
        eventually(lambda: bool(told))
        assert "attribute 'dataset' of a Box" in told[0].holders
        assert "attribute 'dataset' of a Box" in manager.health().problems[0]
        del box.dataset
        assert handle.close(timeout=20)
        assert manager.health().ok


def test_variables_of_a_program_that_ends() -> None:
    finished = run_python(
        """
        import lifecycle

        class Dataset:
            def __del__(self): print("freed", flush=True)

        def show():
            global kept
            handle = manager.register(Dataset(), "dataset", release=lifecycle.DROPPED)
            with handle.lease() as ds:
                kept = ds
            return handle.close()

        manager = lifecycle.SafetyManager(name="program")
        print(show(), flush=True)
        """
    )
    out = finished.check()
    assert out.startswith("False")
    assert "global 'kept' of module '__main__'" in finished.stderr + out


def test_a_worker_that_is_woken_can_be_told_which_it_was(manager: SafetyManager) -> None:
    """I3: the object goes with the last reference to it, which is the one by which it is watched."""
    freed: list[int] = []
    told: list[Any] = []
    handle = manager.register(Dataset(freed), "dataset", release=DROPPED, release_on=ANY_THREAD)
    record = handle._record
    dropped = record.more().dropped
    kept = [record.obj]
    registry = manager._registry
    ring, registry.ring = registry.ring, lambda bell: told.append((bell.id, dropped.gone()))
    dropped.witness = kept.pop
    dropped.let_go = dropped.kept = True
    record.obj = None
    assert watch(record, dropped, ring=True)
    registry.ring = ring
    assert len(freed) == 1
    assert told == [(record.id, True)]
    assert handle.close()
