"""What is written, at which moment, and that nothing of it is there when no recorder runs."""

from __future__ import annotations

import collections
import errno
import gc
import inspect
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lifecycle
from lifecycle import ANY_THREAD, AccessPanicError, Handle, NotReleased, SafetyConfig, SafetyManager
from lifecycle._core import access, detach, exclusive, facts, handle, release, runtime, shares
from lifecycle._core import register as register_module
from lifecycle._core.place import AnyThread
from lifecycle._core.record import Record
from lifecycle.manager import manager as manager_module
from lifecycle.manager import shutdown
from lifecycle.observe import ledger
from lifecycle.recorder import Recorder, RecorderError, RecordingError, files, hooks, layout
from lifecycle.recorder.postmortem import Report, analyse
from lifecycle.recorder.reader import Entry, read
from lifecycle.testing import at_once, each_interrupt, switching
from lifecycle.testing.interrupts import run_interrupted
from tests.core.natives import Native
from tests.support import eventually, run_python

OWNERS: tuple[Any, ...] = (
    Handle,
    Record,
    SafetyManager,
    handle,
    facts,
    exclusive,
    release,
    register_module,
    manager_module,
    access,
    detach,
    ledger,
    shares,
    shutdown,
    AnyThread,
)


def exchanged() -> dict[tuple[int, str], object]:
    """What a recorder exchanges, and everything beside it."""
    return {
        (number, name): value for number, owner in enumerate(OWNERS) for name, value in vars(owner).items()
    }


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    # Pytest has enabled faulthandler; it stays its own.
    made = lifecycle.recorder.start(tmp_path / "here.rec", slots=1024, uses=8)
    yield made
    made.stop()


def look(recorder: Recorder) -> Report:
    return analyse(read(recorder.path))


def told(recorder: Recorder, id: int) -> list[tuple[int, int]]:
    """Operations and flags of an object."""
    return [(entry.operation, entry.flag) for entry in read(recorder.path).entries if entry.object == id]


def test_off_nothing_is_imported_and_nothing_exchanged() -> None:
    code = """
        import sys, lifecycle
        from lifecycle import Handle, SafetyManager
        with SafetyManager() as manager:
            manager.register(object(), "x", release=id).close()
        assert not [name for name in sys.modules if name.startswith("lifecycle.recorder")]
        assert type(vars(Handle)["_token"]).__name__ == "member_descriptor"
        """
    run_python(code, env={"LIFECYCLE_RECORDER": ""}).check()


def test_stopped_everything_is_as_it_was(tmp_path: Path) -> None:
    before = exchanged()
    made = lifecycle.recorder.start(tmp_path / "once.rec", slots=1024)
    changed = {key for key, value in exchanged().items() if before[key] is not value}
    assert len(changed) == (13 if runtime.free_threaded else 11) + 4 + 6
    assert made.running
    assert lifecycle.recorder.active() is made
    made.stop()
    made.stop()
    assert exchanged() == before
    assert not made.running
    assert lifecycle.recorder.active() is None
    assert read(made.path).clean


def test_a_lease_that_is_the_last_releases_what_was_closed_meanwhile(
    manager: SafetyManager, recorder: Recorder
) -> None:
    """As it does without a recorder: here and now, on the thread that used it."""
    released_on: list[int] = []
    handle = manager.register(
        Native(), "thing", release=lambda _: released_on.append(threading.get_ident()), release_on=ANY_THREAD
    )
    lease = handle.lease()
    closer = threading.Thread(target=lambda: handle.close(timeout=0))
    closer.start()
    closer.join()
    assert not released_on
    assert told(recorder, handle.id) == [(layout.REGISTER, 2), (layout.SHUT, layout.CAUSES.index("close"))]
    lease.close()
    assert released_on == [threading.get_ident()]
    assert [operation for operation, _ in told(recorder, handle.id)] == [
        layout.REGISTER,
        layout.SHUT,
        layout.BEGINS,
        layout.ENDS,
    ]


def shuts(recorder: Recorder, id: int) -> int:
    return [operation for operation, _ in told(recorder, id)].count(layout.SHUT)


def claims_of_shuts() -> dict[int, float]:
    """Who writes down which door that was shut, while a recorder runs."""
    shut = inspect.getclosurevars(vars(AnyThread)["settle"]).nonlocals["shut"]
    note_shut = inspect.getclosurevars(shut).nonlocals["note_shut"]
    claims: dict[int, float] = inspect.getclosurevars(note_shut).nonlocals["noted"]
    return claims


def test_what_is_closed_while_it_is_held_is_shut_in_the_file(
    manager: SafetyManager, recorder: Recorder
) -> None:
    """Also by the plain `close`, which shuts by stores of its own, and while it waits for who holds it."""
    for _ in range(3):
        handle = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
        with handle.lease():
            assert not handle.close()
            assert shuts(recorder, handle.id) == 1
    waited = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    number = waited.id
    with waited.lease():
        closer = threading.Thread(target=lambda: waited.close(timeout=None))
        closer.start()
        eventually(lambda: shuts(recorder, number) == 1)
        assert closer.is_alive()
    closer.join()
    assert [operation for operation, _ in told(recorder, number)] == [
        layout.REGISTER,
        layout.SHUT,
        layout.BEGINS,
        layout.ENDS,
    ]
    assert not claims_of_shuts()


@pytest.mark.parametrize("held", [True, False])
def test_an_interrupt_loses_no_door_that_was_shut(
    manager: SafetyManager, recorder: Recorder, held: bool
) -> None:
    """At each point of what writes it down, and nothing of it is kept behind the object's end."""
    strike_at = 0
    places: dict[int, str] = {}
    while "" not in places.values():
        strike_at += 1
        made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
        number = made.id
        lease = made.lease() if held else None
        struck = run_interrupted(made.close, strike_at, of=lambda code: code.co_filename == hooks.__file__)
        places[number] = struck.place
        del struck
        if lease is not None:
            lease.close()
        made.close(timeout=0)
        del made, lease
    eventually(lambda: manager.stats().active_objects == 0)
    entries = read(recorder.path).entries
    written = collections.Counter(entry.object for entry in entries if entry.operation == layout.SHUT)
    assert not {place for number, place in places.items() if not written[number]}
    # Where the interrupt falls between the write and the return.
    assert len([number for number in places if written[number] > 1]) <= 2
    assert len(places) > 10
    assert not claims_of_shuts()


def test_what_was_registered_before_is_carried_on(manager: SafetyManager, tmp_path: Path) -> None:
    before = manager.register(
        Native(), "thing", name="it", release=Native.free, release_on=ANY_THREAD, size=3
    )
    ended = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    ended.close()
    made = lifecycle.recorder.start(tmp_path / "late.rec", slots=1024)
    try:
        assert not told(made, ended.id)
        before.close()
        first, *_, last = [one for one in read(made.path).entries if one.object == before.id]
        assert (first.operation, first.type, first.name, first.b) == (layout.REGISTER, "thing", "it", 3)
        assert last.operation == layout.ENDS
        after = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    finally:
        made.stop()
    assert type(after._record) is Record
    after.close()


@pytest.mark.unwatched  # stores that are watched shut a door by a call, which writes that down itself
def test_a_life_in_three_records(manager: SafetyManager, recorder: Recorder) -> None:
    native = manager.register(
        Native(), "thing", name="it", release=Native.free, release_on=ANY_THREAD, native=0x5000, size=12
    )
    assert native.close()
    entries = [one for one in read(recorder.path).entries if one.object == native.id]
    assert [one.operation for one in entries] == [layout.REGISTER, layout.SHUT, layout.BEGINS, layout.ENDS]
    first, shut, begun, ended = entries
    assert (first.type, first.name, first.a, first.b) == ("thing", "it", 0x5000, 12)
    line = test_a_life_in_three_records.__code__.co_firstlineno
    assert (first.site, begun.site) == (f"{__file__}:{line + 2}", f"{__file__}:{line + 5}")
    assert layout.CAUSES[shut.flag] == "close"
    assert layout.OUTCOMES[ended.flag] == "released"
    assert first.time <= begun.time <= ended.time
    if not runtime.free_threaded:  # there doors are shut by a call, too
        assert shut.time <= begun.time
        assert (shut.number, shut.a, begun.a) == (begun.number, 0, 0)  # one record says both
        assert read(recorder.path).kept == recorder.stats().records == 3
    assert {one.thread for one in entries} == {threading.get_native_id()}


def test_a_begin_is_written_before_the_act_and_an_end_after_it(
    manager: SafetyManager, recorder: Recorder
) -> None:
    during: list[list[tuple[int, int]]] = []

    def release(native: Native) -> None:
        during.append(told(recorder, number))
        native.free()

    made = manager.register(Native(), "thing", release=release, release_on=ANY_THREAD)
    number = made.id
    made.close()
    assert [operation for operation, _ in during[0]] == [layout.REGISTER, layout.SHUT, layout.BEGINS]


@pytest.mark.filterwarnings("ignore:thing .* was dropped:ResourceWarning")
@pytest.mark.parametrize(
    "how", ["background", "registrar", "factory", "dropped", "shared", "invalid", "detached"]
)
def test_every_way_of_life_is_told(manager: SafetyManager, recorder: Recorder, how: str) -> None:
    outcome = "released"
    if how == "background":
        made = manager.register(Native(), "thing", release=Native.free)
        made.close()
    elif how == "registrar":
        made = manager.registrar("thing", release=Native.free, release_on=ANY_THREAD)(Native(), None, 0)
        made.close()
    elif how == "factory":
        made = manager.factory(lambda: Native(), "thing", release=Native.free, release_on=ANY_THREAD)()
        made.close()
    elif how == "dropped":
        number = manager.register(Native(), "thing", release=Native.free).id
    elif how == "shared":
        made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
        other = made.share()
        made.close()
        other.close()
    elif how == "invalid":
        made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
        with pytest.raises(AccessPanicError):
            manager.safe_access(made, lambda native: 1 / 0)
    else:
        made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
        made.detach().free()
        outcome = "detached"
    if how != "dropped":
        number = made.id
    ends = (layout.ENDS, layout.OUTCOMES.index(outcome))
    eventually(lambda: told(recorder, number)[-1:] == [ends])
    operations = [operation for operation, _ in told(recorder, number) if operation != layout.SHUT]
    begins = [layout.BEGINS] if outcome == "released" else []
    assert operations == [layout.REGISTER, *begins, layout.ENDS]


def test_failed_stuck_and_again(recorder: Recorder) -> None:
    answers = iter([NotReleased("busy"), None])
    hung = threading.Event()

    def busy(native: Native) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer
        native.free()

    def fail(native: Native) -> None:
        native.free()
        raise ValueError("no\x1b such device")

    def hang(native: Native) -> None:
        hung.wait(30)
        native.free()

    config = SafetyConfig(finalizer_timeout=0.2, leak_level="off")
    with SafetyManager(config, name="ends") as manager:
        again = manager.register(Native(), "again", release=busy, release_on=ANY_THREAD)
        failed = manager.register(Native(), "failed", release=fail, release_on=ANY_THREAD)
        stuck = manager.register(Native(), "stuck", release=hang)
        for one in (again, failed, stuck):
            one.close(timeout=0)
        eventually(lambda: stuck.state == "stuck")
        eventually(lambda: again.state == "released")
        assert told(recorder, stuck.id)[-1] == (layout.ENDS, layout.OUTCOMES.index("stuck"))
        hung.set()
        eventually(lambda: told(recorder, stuck.id)[-1] == (layout.ENDS, layout.OUTCOMES.index("released")))
    assert told(recorder, failed.id)[-1] == (layout.ENDS, layout.OUTCOMES.index("failed"))
    assert [operation for operation, _ in told(recorder, again.id)] == [
        layout.REGISTER,
        layout.SHUT,
        layout.BEGINS,
        layout.AGAIN,
        layout.BEGINS,
        layout.ENDS,
    ]
    (end,) = [
        one for one in read(recorder.path).entries if one.object == failed.id and one.operation == layout.ENDS
    ]
    assert end.name == "ValueError: no? such device"


def test_leases_and_accesses_are_in_use_from_begin_to_end(manager: SafetyManager, recorder: Recorder) -> None:
    made = manager.register(Native(), "thing", name="it", release=Native.free, release_on=ANY_THREAD)

    def used() -> list[str]:
        return [use.kind for use in look(recorder).in_use if use.object == made.id]

    with made.lease():
        assert used() == ["lease"]
        with made.lease() as inner:
            assert used() == ["lease", "lease"]
            assert inner is not None
    assert used() == []
    assert manager.safe_access(made, lambda native: used()) == ["access"]
    with manager.safe_access(made):
        assert used() == ["access"]
    with made.exclusive():
        assert used() == ["exclusive"]
    dropped = made.lease()
    assert used() == ["lease"]
    del dropped
    gc.collect()
    # A drop is noted by the next use: nothing of Python runs at the drop itself.
    with made.lease():
        assert used() == ["lease"]
    assert used() == []
    lease = made.lease()
    lease.close()
    lease.close()
    assert used() == []
    with pytest.raises(KeyError), made.lease():
        raise KeyError
    assert used() == []
    made.close()


def test_more_leases_than_room_are_counted(manager: SafetyManager, recorder: Recorder) -> None:
    made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    leases = [made.lease() for _ in range(11)]
    assert len(look(recorder).in_use) == 8
    assert recorder.stats().left_out_uses == read(recorder.path).left_out_uses == 3
    for lease in leases:
        lease.close()
    with made.lease():
        assert len(look(recorder).in_use) == 1
    assert any("3 leases found no room" in one for one in look(recorder).unknown)
    made.close()


def test_an_interrupt_leaves_no_use_open_and_costs_no_place(
    manager: SafetyManager, recorder: Recorder
) -> None:
    made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    for lease in [made.lease() for _ in range(8)]:
        # Each place has been used once.
        lease.close()

    def run() -> None:
        with made.lease():
            pass

    places = []
    for struck in each_interrupt(run, of=lambda code: code.co_filename == hooks.__file__):
        places.append(struck.place)
        struck.error and struck.error.with_traceback(None)
    assert len(places) > 10
    for _ in range(2):
        # The first one clears.
        leases = [made.lease() for _ in range(8)]
        assert len(look(recorder).in_use) == 8
        for lease in leases:
            lease.close()
    assert not recorder.stats().left_out_uses
    assert not look(recorder).in_use
    made.close()


def test_two_that_end_one_lease_end_it_once(manager: SafetyManager, recorder: Recorder) -> None:
    """Its place in the table is given back once, or two others had it."""
    made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    for _ in range(20):
        lease = made.lease()
        with switching():
            at_once(lease.close, lease.close)
    leases = [made.lease() for _ in range(8)]
    assert len(look(recorder).in_use) == 8
    assert not recorder.stats().left_out_uses
    with made.lease():
        assert recorder.stats().left_out_uses == 1
    for lease in leases:
        lease.close()
    made.close()


def test_a_use_is_over_when_the_release_has_begun(manager: SafetyManager, recorder: Recorder) -> None:
    """Whatever the table says: an interrupt may have struck where the end was to be written."""
    made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    lease: Any = made.lease()
    lease._use = []
    lease.close()
    assert len(look(recorder).in_use) == 1
    made.close()
    assert not look(recorder).in_use


def test_views_are_told_with_their_address(manager: SafetyManager, recorder: Recorder) -> None:
    import ctypes

    memory = ctypes.create_string_buffer(64)
    made = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    view = made.view(ctypes.addressof(memory), 64)
    other = made.view(memory)
    views: list[Entry] = [one for one in read(recorder.path).entries if one.operation == layout.VIEW]
    assert [(one.a, one.b, one.flag) for one in views] == [
        (ctypes.addressof(memory), 64, 0),
        (ctypes.addressof(memory), 64, 1),
    ]
    line = test_views_are_told_with_their_address.__code__.co_firstlineno
    assert [one.site for one in views] == [f"{__file__}:{line + 5}", f"{__file__}:{line + 6}"]
    view.release()
    other.release()
    made.close()


def test_what_cannot_be_written_as_it_is(manager: SafetyManager, recorder: Recorder) -> None:
    """Numbers above 64 bits, names of any length, and what is no number."""
    odd = [(1 << 70, -1, "x" * 5000), (0, "name", "\x1b[2J\u202e\n"), (1, (1, 2), "")]
    for size, native, name in odd:
        manager.register(
            Native(), "thing", name=name, release=Native.free, release_on=ANY_THREAD, native=native, size=size
        ).close()
    first, second, third = [one for one in read(recorder.path).entries if one.operation == layout.REGISTER]
    assert (first.a, first.b) == ((1 << 64) - 1, 0)
    assert first.name == "x" * (layout.LONGEST_TEXT - 3) + "…"
    assert (second.a, second.b, second.name) == (0, 0, "?[2J??")
    assert (third.a, third.name) == (0, "")
    assert recorder.stats().dropped == 0
    recorder.note("a\x1b note")
    last = read(recorder.path).entries[-1]
    assert (last.operation, last.name) == (layout.NOTE, "a? note")
    assert "'a? note'" in str(look(recorder))


def test_names_leave_room_for_types_and_sites(manager: SafetyManager, recorder: Recorder) -> None:
    number = layout.TEXTS
    for one in range(number):
        recorder.note(f"note {one}")
    assert recorder.stats().left_out_texts > 0
    made = manager.register(Native(), "a type of its own", release=Native.free, release_on=ANY_THREAD)
    made.close()
    entry = next(one for one in read(recorder.path).entries if one.object == made.id)
    assert entry.type == "a type of its own"
    assert entry.site


def test_the_ring_turns(manager: SafetyManager, recorder: Recorder) -> None:
    for _ in range(600):
        manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD).close()
    recording = read(recorder.path)
    assert len(recording.entries) == 1024
    assert recording.written == recorder.stats().records >= 2400
    assert recording.overwritten == recording.written - 1024
    assert not recording.missing
    assert recording.entries[-1].number - recording.entries[0].number == 1023


def test_the_recorder_keeps_nothing_alive(manager: SafetyManager, recorder: Recorder) -> None:
    import weakref

    native = Native()
    made = manager.register(native, "thing", release=Native.free, release_on=ANY_THREAD)
    gone = weakref.ref(native)
    del native
    with made.lease():
        pass
    made.close()
    del made
    gc.collect()
    assert gone() is None


# -- where files are -----------------------------------------------------------------------------------------


def test_one_recorder_at_a_time(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(RecorderError, match=r"a recorder runs already, at .*here\.rec: stop\(\) it first"):
        lifecycle.recorder.start(tmp_path / "second.rec")


def test_arguments_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFECYCLE_RECORDER", raising=False)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("without a path", {}),
        ("is no path of a file", {"path": "a\0b"}),
        ("takes the path of a file", {"path": 3}),
        ("takes the path of a file", {"path": True}),
        ("is a folder: name a file in it", {"path": tmp_path}),
        ("is a folder: name a file in it", {"path": os.fsencode(tmp_path)}),
        ("slots= is a whole number", {"path": tmp_path / "a", "slots": 10}),
        ("no power of two: 2048 is the next", {"path": tmp_path / "a", "slots": 1025}),
        ("uses= is a whole number", {"path": tmp_path / "a", "uses": 0}),
        ("keep= is a whole number", {"path": tmp_path / "a", "keep": -1}),
        ("make the folder first", {"path": tmp_path / "absent" / "a"}),
        ("choose another path", {"path": tmp_path / ("long" * 100)}),
    ]
    for words, arguments in bad:
        with pytest.raises(RecorderError, match=words):
            lifecycle.recorder.start(**arguments)
    assert lifecycle.recorder.active() is None
    assert not list(tmp_path.iterdir())
    none: Any
    for none in (None, 3, object()):
        with pytest.raises(RecordingError, match=r"read\(\) takes the path"):
            lifecycle.recorder.read(none)
        with pytest.raises(RecordingError, match=r"previous_runs\(\) takes the path"):
            lifecycle.recorder.previous_runs(none)


def test_a_full_disk_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_allocate", full)
    with pytest.raises(RecorderError, match=r"No space left on device; it needs [\d,]+ bytes: make room"):
        lifecycle.recorder.start(tmp_path / "full.rec")
    assert not list(tmp_path.iterdir())


def test_the_file_is_allocated_and_its_owners_alone(recorder: Recorder) -> None:
    about = os.stat(recorder.path)
    assert about.st_mode & 0o777 == 0o600
    assert about.st_size == recorder.stats().size
    assert about.st_blocks * 512 >= about.st_size


def test_a_taken_path_gets_a_number_and_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("data")
    (tmp_path / "a.rec").symlink_to(target)
    (tmp_path / "a-1.rec").write_text("somebody's")
    made = lifecycle.recorder.start(tmp_path / "a.rec", slots=1024)
    made.stop()
    assert made.path == str(tmp_path / "a-2.rec")
    assert target.read_text() == "data"
    assert (tmp_path / "a-1.rec").read_text() == "somebody's"


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RecorderError, match="every user may replace files there"):
        lifecycle.recorder.start(folder / "a.rec")
    folder.chmod(0o1777)
    lifecycle.recorder.start(folder / "a.rec", slots=1024).stop()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(RecorderError, match="Permission denied; choose a folder"):
        lifecycle.recorder.start(folder / "a.rec")


def unclean(path: Path, started: float, pid: int = 0) -> None:
    """Make of a finished recording one of a process that is gone without a clean end."""
    made = lifecycle.recorder.start(path, slots=1024)
    made.stop()
    data = bytearray(Path(made.path).read_bytes())
    layout.STATE.pack_into(data, layout.STATE_AT, layout.RUNNING)
    facts = list(layout.FACTS.unpack_from(data, layout.FACTS_AT))
    facts[2], facts[3] = 1, started  # no process was started at that tick
    layout.FACTS.pack_into(data, layout.FACTS_AT, *facts)
    Path(made.path).unlink()
    path.write_bytes(data)
    os.utime(path, (started, started))


def test_an_unclean_end_is_announced_once_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    pattern = str(tmp_path / "cam-{pid}.rec")
    now = time.time()
    for number in range(7):
        unclean(tmp_path / f"cam-{number + 1000000}.rec", now - 1000 + number)
    (tmp_path / "cam-notes.rec").write_text("not ours")
    (tmp_path / "cam-77.rec").write_text("no recording")
    assert len(lifecycle.recorder.previous_runs(pattern)) == 7

    def announced() -> int:
        made = lifecycle.recorder.start(pattern, slots=1024)
        made.stop()
        text = caplog.text
        caplog.clear()
        return int(text.count("lifecycle.previous_run"))

    caplog.set_level("ERROR")
    assert announced() == 1, "each of the others had been announced by the next"
    assert announced() == 0
    assert announced() == 0
    kept = lifecycle.recorder.previous_runs(pattern)
    assert [run.started for run in kept] == sorted(now - 1000 + number for number in range(2, 7))
    assert not any(run.crash or run.child for run in kept)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"cam-notes.rec", "cam-77.rec", f"cam-{os.getpid()}.rec"} < names
    assert len(names) == 5 + 3, "a clean run is removed by the next start"


def test_the_environment_starts_it_and_never_ends_the_program(tmp_path: Path) -> None:
    code = """
        import lifecycle
        print(lifecycle.recorder.active())
        """
    path = tmp_path / "env-{pid}.rec"
    done = run_python(code, env={"LIFECYCLE_RECORDER": str(path)})
    assert f"<Recorder {tmp_path}/env-" in done.check()
    done = run_python(code, env={"LIFECYCLE_RECORDER": str(tmp_path / "absent" / "a.rec")})
    assert done.check() == "None\n"
    assert "lifecycle.recorder" in done.stderr
    assert "make the folder first" in done.stderr
    assert "Traceback" not in done.stderr


def test_threads_by_name_and_by_both_numbers(recorder: Recorder) -> None:
    thread = threading.Thread(target=lambda: recorder.note("here"), name="a thread")
    thread.start()
    ident = thread.ident
    thread.join()
    (found,) = [one for one in read(recorder.path).threads if one.name == "a thread"]
    assert found.ident == ident
    assert read(recorder.path).entries[-1].thread == found.native == thread.native_id


def test_stacks_are_given_back_by_threads_that_have_ended(recorder: Recorder) -> None:
    from lifecycle.recorder import stacks

    if not stacks.available:
        pytest.skip("no alternate signal stacks on this platform")
    for _ in range(2):
        for number in range(layout.STACKS + 8):
            thread = threading.Thread(target=recorder.note, args=(f"{number}",))
            thread.start()
            thread.join()
        recorder._writer.stacks._looked = 0.0
    last = read(recorder.path).threads[-1]
    assert last.stack > 0


def test_a_thread_has_a_stack_however_many_have_ended_before_it(recorder: Recorder) -> None:
    from lifecycle.recorder import stacks

    if not stacks.available:
        pytest.skip("no alternate signal stacks on this platform")
    for number in range(3 * layout.STACKS):
        thread = threading.Thread(target=recorder.note, args=(f"{number}",))
        thread.start()
        thread.join()
    without = [one.name for one in read(recorder.path).threads if not one.stack]
    # The system may be about to end the one before.
    assert len(without) <= 2, without


def test_interrupts_at_random_moments_leave_nothing(tmp_path: Path) -> None:
    """The scenes of the core's own tests, recorded: a recorder adds calls, and no object is lost in them."""
    code = """
        from tests.core.test_interrupts import rain_on_leases
        rain_on_leases(60)
        import lifecycle
        recorder = lifecycle.recorder.active()
        print(recorder.stats().records > 60, recorder.stats().dropped)
        """
    done = run_python(code, env={"LIFECYCLE_RECORDER": str(tmp_path / "rain.rec")})
    assert done.check() == "True 0\n"
    assert read(tmp_path / "rain.rec").clean


def test_the_recorders_lease_is_taken_as_the_cores_is() -> None:
    """Recorded leases have their own class and way in, so that nothing is called where none is recorded. Up to
    the lease itself the two ways are the same lines."""

    def way_in(function: Any) -> list[str]:
        lines = [line.split("  #")[0].strip() for line in inspect.getsource(function).splitlines()]
        return lines[lines.index("pin = self._cell.pin") : lines.index("return timer.lease(pin)") + 1]

    theirs = way_in(Handle.lease)
    assert len(theirs) > 8
    assert way_in(hooks._of_leases) == theirs
