"""From a crash to its cause: processes that die, and what their files say."""

from __future__ import annotations

import json
import platform
import signal
import sys
from pathlib import Path

import pytest

import lifecycle.recorder
from lifecycle.recorder import files
from tests.recorder.scenes import line_of, play, report

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc of Linux")
with_address = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the layout of signal frames is not known here"
)

READ_LATE = """
import mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

class Block:
    def __init__(self, size):
        self.size = size
        self.address = libc.mmap(None, size, 3, 0x22, -1, 0)

    def unmap(self):
        libc.munmap(self.address, self.size)

manager = SafetyManager(name="crash")

def take(name, size=1 << 20):
    block = Block(size)
    return manager.register(
        block, "buffer", name=name, release=Block.unmap, release_on=ANY_THREAD, native=block.address, size=size
    )
"""


@with_address
@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_memory_used_after_its_release_names_the_object(tmp_path: Path, where: str, access: str) -> None:
    touch = "ctypes.string_at(address + 17, 1)" if access == "read" else "ctypes.memset(address + 17, 0, 1)"
    done = play(
        tmp_path,
        READ_LATE
        + f"""
right = take("right")

def blend():
    # Made here: without the GIL an object is released by the thread that made it.
    left, overlay = take("left"), take("overlay")
    address = left.native
    with overlay.lease():
        left.close()  # closed here
        {touch}  # crashes here

if {where!r} == "main":
    blend()
else:
    thread = threading.Thread(target=blend, name="compositor")
    thread.start()
    thread.join()
""",
    )
    assert done.rc == -signal.SIGSEGV, done.stderr
    found = report(tmp_path)
    assert found.crashed
    assert found.signal == "Segmentation fault"
    assert found.recording.fault is not None
    assert found.recording.fault.access == access
    first = found.suspects[0]
    assert (first.life.type, first.life.name, first.rule) == ("buffer", "left", "address")
    assert first.site.endswith(f"scene.py:{line_of(tmp_path, '# closed here')}")
    assert first.why.startswith("byte 17 of its 1,048,576; released on ")
    assert found.recording.fault.address == (first.life.registered.a + 17 if first.life.registered else 0)
    (use,) = found.in_use
    assert found.lives[use.object].name == "overlay"
    assert use.thread == found.thread
    assert found.frame is not None
    assert found.frame.line == line_of(tmp_path, "# crashes here")
    name = "MainThread" if where == "main" else "compositor"
    text = str(found)
    assert f"thread {name} (" in text
    assert f"scene.py:{found.frame.line} blend" in text
    assert json.loads(json.dumps(found.as_dict()))["suspects"][0]["name"] == "left"


@with_address
def test_of_two_lives_of_one_address_the_latest_is_named(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        manager = SafetyManager(name="two lives")
        address = 0x7f00_1234_5000
        for name in ("first", "second"):
            manager.register(
                Native(), "buffer", name=name, release=nothing, release_on=ANY_THREAD, native=address, size=4096
            ).close()
        ctypes.string_at(address, 1)
        """,
    )
    assert done.rc == -signal.SIGSEGV, done.stderr
    assert [one.life.name for one in report(tmp_path).suspects] == ["second"]


@with_address
def test_memory_of_a_view_names_the_object(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        READ_LATE
        + """
block = Block(8192)
owner = manager.register(block, "mapping", release=Block.unmap, release_on=ANY_THREAD)
view = owner.view(block.address, 8192)
owner.close()
block.unmap()  # behind the manager's back
view[4097]
""",
    )
    assert done.rc == -signal.SIGSEGV, done.stderr
    (suspect,) = report(tmp_path).suspects
    assert (suspect.life.type, suspect.rule) == ("mapping", "address")
    assert suspect.why == "byte 4,097 of its 8,192; it was closed, and held still"


@with_address
def test_beside_the_memory_is_said_to_be_beside_it(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        READ_LATE
        + """
block = Block(3 * 4096)
libc.munmap(block.address + 2 * 4096, 4096)
kept = manager.register(block, "buffer", release=nothing, release_on=ANY_THREAD, native=block.address, size=8192)
ctypes.string_at(block.address + 8192, 1)
""",
    )
    assert done.rc == -signal.SIGSEGV, done.stderr
    (suspect,) = report(tmp_path).suspects
    assert suspect.rule == "beside"
    assert suspect.why.startswith("just outside its memory, 0 bytes behind it; ")


def test_a_release_that_crashes_is_named_by_its_thread(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        def crash(native):
            ctypes.string_at(8, 1)

        def hang(native):
            started.set()
            time.sleep(60)

        started = threading.Event()
        manager = SafetyManager(name="releases")
        other = manager.register(Native(), "encoder", name="x264", release=hang)
        other.close(timeout=0)
        assert started.wait(30)
        decoder = manager.register(Native(), "decoder", release=crash, release_on=ANY_THREAD)
        decoder.close()
        """,
    )
    assert done.rc == -signal.SIGSEGV, done.stderr
    found = report(tmp_path)
    assert [(one.life.type, one.rule) for one in found.suspects] == [
        ("decoder", "releasing"),
        ("encoder", "running"),
    ]
    assert "its release has been running on MainThread (" in found.suspects[0].why


def test_a_release_that_asked_to_be_called_again_is_not_running(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        from lifecycle import NotReleased

        def busy(native):
            called.set()
            raise NotReleased("in use by the device")

        called = threading.Event()
        manager = SafetyManager(name="again")
        device = manager.register(Native(), "device", release=busy)
        device.close(timeout=0)
        assert called.wait(30)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.rc == -signal.SIGKILL, done.stderr
    found = report(tmp_path)
    # The release is called again and again: at the end it may just have been running.
    begun, again = found.lives[1].begun, found.lives[1].again
    assert begun is not None
    assert again is not None
    assert bool(found.suspects) == (begun.number > again.number)


def test_killed_has_no_signal_and_no_suspect(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        manager = SafetyManager(name="killed")
        left = manager.register(Native(), "buffer", name="left", release=nothing)
        with left.lease():
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.rc == -signal.SIGKILL, done.stderr
    found = report(tmp_path)
    assert found.crashed
    assert not found.suspects
    text = str(found)
    assert OUTSIDE in text
    assert "none: nothing recorded points at an object" in text
    assert 'buffer 1 "left"        leased by MainThread (' in text


OUTSIDE = (
    "no fault was recorded. Possible causes: a signal from outside, such as SIGTERM or SIGKILL (the OOM killer "
    "sends that); os._exit; a crash whose text went to a faulthandler that the program enabled later. The machine "
    "has not been restarted since"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, None])
def test_an_end_from_outside_is_announced_as_what_it_may_have_been(
    tmp_path: Path, number: signal.Signals | None
) -> None:
    end = "os._exit(0)" if number is None else f"os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    done = play(tmp_path, f"manager = SafetyManager()\n{end}\n")
    assert done.rc == (0 if number is None else -number), done.stderr
    assert f"ended    {OUTSIDE}\n" in str(report(tmp_path))
    (run,) = lifecycle.recorder.previous_runs(str(tmp_path / "scene-{pid}.rec"))
    assert (run.crash, run.ended) == ("", OUTSIDE)
    again = play(tmp_path, "manager = SafetyManager()\n")
    again.check()
    (said,) = [line for line in again.stderr.splitlines() if "lifecycle.previous_run" in line]
    assert OUTSIDE in said
    assert "; if it was SIGTERM, manager.close_on(signal.SIGTERM) has it end in order" in said


def test_a_sigterm_that_managers_are_closed_for_is_an_end_in_order(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        manager = SafetyManager()
        left = manager.register(Native(), "buffer", release=nothing)
        manager.close_on(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
    )
    assert done.rc == -signal.SIGTERM, done.stderr
    found = report(tmp_path)
    assert (found.recording.clean, found.recording.ended_by, found.crashed) == (True, "SIGTERM", False)
    assert "; ended well, by SIGTERM after its managers were closed\n" in str(found)
    assert found.as_dict()["end"]["ended_by"] == "SIGTERM"
    assert lifecycle.recorder.previous_runs(str(tmp_path / "scene-{pid}.rec")) == ()
    again = play(tmp_path, "manager = SafetyManager()\n")
    assert "previous_run" not in again.stderr


def test_a_closing_that_a_second_sigterm_cuts_short_is_none(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        manager = SafetyManager()
        begun = threading.Event()

        def busy(native):
            begun.set()
            time.sleep(60)

        left = manager.register(Native(), "buffer", release=busy)
        manager.close_on(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert begun.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
    )
    assert done.rc == -signal.SIGTERM, done.stderr
    found = report(tmp_path)
    assert (found.crashed, found.recording.ended_by) == (True, "")
    assert [life.type for life in found.releasing] == ["buffer"]


def test_of_another_start_of_the_machine_it_may_have_ended_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    for boot, now, with_machine, since in (
        ("a", "a", False, ". The machine has not been restarted since"),
        ("a", "b", True, ". The machine has been restarted since, or this is another one"),
        ("", "b", True, "enabled later"),
        ("a", "", True, "enabled later"),
    ):
        monkeypatch.setattr(files, "boot_id", lambda now=now: now)
        text = files.unknown_end(boot)
        assert ("a power loss" in text) is with_machine
        assert text.endswith(since)
    assert files.unknown_end("a", elsewhere=True).endswith("a faulthandler that the program enabled")


def test_abort_has_a_line_and_no_address(tmp_path: Path) -> None:
    done = play(tmp_path, "manager = SafetyManager()\nos.abort()  # here")
    assert done.rc == -signal.SIGABRT, done.stderr
    found = report(tmp_path)
    assert found.signal == "Aborted"
    assert found.frame is not None
    assert found.frame.line == line_of(tmp_path, "# here")
    assert found.recording.fault is None
    assert any("the kernel left none" in one for one in found.unknown)


@with_address
def test_an_address_that_no_mapping_could_have(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        """
        manager = SafetyManager()
        ctypes.string_at(0x8000_0000_0000_0000, 1)
        """,
    )
    assert done.rc in (-signal.SIGSEGV, -signal.SIGBUS), done.stderr
    found = report(tmp_path)
    assert found.crashed
    if platform.machine() == "x86_64":
        assert found.recording.fault is not None
        assert found.recording.fault.address is None
        assert "an address that the kernel does not say" in str(found)


def test_a_clean_end_is_one_also_with_an_uncaught_exception(tmp_path: Path) -> None:
    for ending in ("pass", "sys.exit(3)", "raise RuntimeError('mine')"):
        done = play(tmp_path, f"manager = SafetyManager()\n{ending}\n")
        assert done.rc in (0, 1, 3)
        found = report(tmp_path)  # the next start has removed what ended well
        assert found.recording.clean
        assert not found.crashed
        assert "; ended well" in str(found)


def test_faulthandler_of_the_program_stays_its_own(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "manager = SafetyManager()\nctypes.string_at(8, 1)\n",
        env={"PYTHONFAULTHANDLER": "1"},
    )
    assert done.rc == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    found = report(tmp_path)
    assert found.recording.text_elsewhere
    assert found.crashed
    assert any("faulthandler was enabled by the program" in one for one in found.unknown)


def test_sigtrap_of_glib_has_its_line(tmp_path: Path) -> None:
    done = play(tmp_path, "manager = SafetyManager()\nos.kill(os.getpid(), signal.SIGTRAP)  # here\n")
    assert done.rc == -signal.SIGTRAP
    found = report(tmp_path)
    assert found.crashed
    assert f'scene.py", line {line_of(tmp_path, "# here")} in' in found.recording.fault_text
