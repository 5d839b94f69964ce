"""What the library says where nobody can read it leaves the program's exit status as it was.

CPython ends with 120 where it cannot flush a standard stream at its end. Each scene is a program of its own,
with buffered streams; it says something by itself (a leak, something left at exit, a failing hook), while the
stream that it goes to cannot be written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from tests.support import ROOT

START = """
import atexit, gc, logging, os, sys, time, warnings
import structlog
from lifecycle import ANY_THREAD, CleanupGuard, SafetyManager
from lifecycle._core import runtime

def told(manager, kind):
    seen = []
    manager.add_observer(lambda event: seen.append(event.kind))
    def wait():
        until = time.monotonic() + 30
        while kind not in seen and time.monotonic() < until:
            manager.stats()
            time.sleep(0.01)
        assert kind in seen, seen
    return wait

def leak(manager):
    wait = told(manager, "leak")
    manager.register([], "list", release=list.clear, release_on=ANY_THREAD)
    wait()
"""
LEFT = """
manager = SafetyManager()
handle = manager.register([], "list", release=list.clear)
lease = handle.lease()
"""
SCENES = {
    "left at exit": LEFT,
    "a leak while it runs": "leak(SafetyManager())",
    "by logging": "structlog.configure(logger_factory=structlog.stdlib.LoggerFactory()); logging.basicConfig()\n" + LEFT,
    "by a handler made before": "logging.basicConfig()\nstructlog.configure(logger_factory=structlog.stdlib.LoggerFactory())\nleak(SafetyManager())\n" + LEFT,
    "as a warning": "warnings.simplefilter('always')\nleak(SafetyManager())\n",
    "a failing observer": "manager = SafetyManager()\nmanager.add_observer(lambda event: 1 / 0)\nleak(manager)",
    "a failing exit hook": "def fails(): raise ValueError\nruntime.at_exit(fails)",
    "an excepthook that fails": "def fails(*_): raise ValueError\nsys.excepthook = fails\nruntime.at_exit(fails)\n" + LEFT,
    "a forgotten guard": "warnings.simplefilter('always')\nguard = CleanupGuard(lambda: None)\ndel guard\ngc.collect()",
    "a guard in a module that ends": "warnings.simplefilter('always')\nguard = CleanupGuard(lambda: None)",
    "a manager made by a late hook": "atexit.unregister(runtime._run_exit_hooks)\n" + LEFT + "atexit.register(runtime._run_exit_hooks)",
    "before and after the exit pass": "def late():\n    global guard\n    del guard\natexit.register(late)\nwarnings.simplefilter('always')\n"
    "guard = CleanupGuard(lambda: None)\n" + LEFT,
}  # fmt: skip


@contextmanager
def unread() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@contextmanager
def full() -> Iterator[int]:
    """A disk without room."""
    number = os.open("/dev/full", os.O_WRONLY)
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def waiting() -> Iterator[int]:
    """A pipe that takes no more at once, and says so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        pass
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


DEAD: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "unread": unread,
    "full": full,
    "waiting": waiting,
}


def status_of(
    program: str, *, stderr: str | None = None, stdout: str | None = None, shell: str = 'exec "$@"'
) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with ExitStack() as stack:
        files = [
            subprocess.DEVNULL if how is None else stack.enter_context(DEAD[how]())
            for how in (stdout, stderr)
        ]
        return subprocess.run(
            ["sh", "-c", shell, "sh", sys.executable, "-c", START + textwrap.dedent(program)],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            timeout=90,
            check=False,
        ).returncode


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("scene", SCENES)
def test_the_status_stays(scene: str, dead: str) -> None:
    assert status_of(SCENES[scene] + "\nsys.exit(3)", stderr=dead) == 3


@pytest.mark.parametrize("dead", DEAD)
def test_a_program_that_ends_well_ends_well(dead: str) -> None:
    assert status_of(LEFT, stderr=dead) == 0


@pytest.mark.parametrize("how", ['exec "$@" 2>&-', 'exec "$@" 1>&- 2>&-', 'exec "$@" 0>&- 1>&- 2>&-'])
def test_streams_that_were_never_there(how: str) -> None:
    assert status_of(SCENES["a leak while it runs"] + "\n" + LEFT + "sys.exit(3)", shell=how) == 3


def test_a_descriptor_that_the_program_has_closed() -> None:
    assert status_of("os.close(2)\nleak(SafetyManager())\n" + LEFT + "sys.exit(3)") == 3


def test_a_log_on_standard_output() -> None:
    """As structlog has it by default, once it is configured."""
    program = "structlog.configure()\nleak(SafetyManager())\n" + LEFT + "sys.exit(3)"
    assert status_of(program, stdout="unread") == 3


def test_a_stream_of_the_programs_own() -> None:
    program = """
    class Both:
        def __init__(self, *streams): self.streams = streams
        def write(self, text): return [one.write(text) for one in self.streams][0]
        def flush(self): [one.flush() for one in self.streams]
    sys.stderr = Both(sys.stderr)
    """
    assert status_of(textwrap.dedent(program) + LEFT + "sys.exit(3)", stderr="unread") == 3


def test_a_child_of_multiprocessing() -> None:
    program = """
    import multiprocessing
    def work():
        global manager, handle, lease
        manager = SafetyManager()
        handle = manager.register([], "list", release=list.clear)
        lease = handle.lease()
        sys.exit(3)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    sys.exit(child.exitcode)
    """
    assert status_of(program, stderr="unread") == 3


OWN = """
try:
    print("said by the program", file=sys.{stream}, flush=True)
except OSError:
    pass
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("dead", ["unread", "full"])
@pytest.mark.parametrize("when", ["before", "in a hook after ours"])
def test_what_the_program_could_not_write_is_still_its_own(stream: str, dead: str, when: str) -> None:
    """120, as without the library: nothing that concerns the program is hidden."""
    own = OWN.format(stream=stream)
    if when == "before":
        program = own + LEFT + "sys.exit(3)"
    else:
        # Registered ahead of the library's pass, so it runs behind it.
        program = (
            "atexit.unregister(runtime._run_exit_hooks)\n@atexit.register\ndef late():\n"
            + textwrap.indent(own, "    ")
        )
        program += LEFT + "runtime._armed = False; runtime.arm_exit()\nsys.exit(3)"
    assert status_of(program, **{stream: dead}) == 120


def test_what_was_said_arrives_where_it_can_be_read() -> None:
    """By the default log, whole, and once."""
    done = subprocess.run(
        [sys.executable, "-c", START + LEFT + "sys.exit(3)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 3, done
    assert done.stderr.count("lifecycle.shutdown") == 1, done
