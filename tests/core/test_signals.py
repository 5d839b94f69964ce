"""Managers that are closed when a signal ends the process: in processes of their own, since they die of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lifecycle import LifecycleError, SafetyManager
from tests.support import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

PRELUDE = """
import asyncio, ctypes, os, signal, sys, time
from lifecycle import BACKGROUND, SafetyManager
def free(thing):
    time.sleep({slow})
    os.write(1, b"released ")
manager = SafetyManager(name="recorder")
handle = manager.register(object(), "file", name="out.mp4", release=free, release_on=BACKGROUND)
def go():
    os.write(1, b"go\\n")
"""


def killed(
    code: str, number: int, *, slow: float = 0.0, again: float | None = None
) -> tuple[int, str, str, float]:
    """Run `code` until it says that it goes, send it the signal (and once more `again` seconds later): its status, what
    it wrote, and for how many seconds it lived on."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE.format(slow=slow) + textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        began = time.monotonic()
        process.send_signal(number)
        if again is not None:
            time.sleep(again)
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, time.monotonic() - began


def test_it_is_closed_and_dies_of_the_signal() -> None:
    status, out, err, _ = killed("manager.close_on(signal.SIGTERM)\ngo()\ntime.sleep(60)", signal.SIGTERM)
    assert (status, out, err) == (-signal.SIGTERM, "released ", "")


def test_the_main_thread_need_not_come_out_of_its_call() -> None:
    code = """
    manager.close_on(signal.SIGTERM)
    go()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        ctypes.CDLL(None).usleep(900_000)
    """
    status, out, _, seconds = killed(code, signal.SIGTERM)
    assert (status, out) == (-signal.SIGTERM, "released ")
    assert seconds < 20


def test_what_handled_it_before_handles_it_then() -> None:
    code = """
    manager.close_on(signal.SIGTERM, signal.SIGINT)
    go()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        os.write(1, b"interrupted")
        sys.exit(3)
    """
    assert killed(code, signal.SIGINT)[:2] == (3, "released interrupted")


def test_the_programs_own_handler_comes_after_it() -> None:
    code = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4 if manager.closed else 5))
    manager.close_on(signal.SIGTERM)
    go()
    time.sleep(60)
    """
    assert killed(code, signal.SIGTERM)[:2] == (4, "released ")


def test_a_second_signal_cuts_it_short_and_says_what_is_left() -> None:
    status, out, err, _ = killed(
        "manager.close_on(signal.SIGTERM)\ngo()\ntime.sleep(60)", signal.SIGTERM, slow=30, again=1.0
    )
    assert (status, out) == (-signal.SIGTERM, "")
    assert "SIGTERM came again" in err
    assert 'file "out.mp4"' in err


@pytest.mark.parametrize("first", ["the loop", "the manager"])
def test_beside_an_event_loop_that_has_the_descriptor(first: str) -> None:
    closes = "manager.close_on(signal.SIGTERM)"
    code = f"""
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        {closes if first == "the loop" else ""}
        go()
        await asyncio.sleep(60)
    {closes if first == "the manager" else ""}
    asyncio.run(main())
    """
    assert killed(code, signal.SIGTERM)[:2] == (-signal.SIGTERM, "released ")


def test_a_forked_child_closes_nothing_of_its_parents() -> None:
    code = """
    manager.close_on(signal.SIGTERM)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    assert not manager.closed
    go()
    time.sleep(60)
    """
    assert killed(code, signal.SIGTERM)[:2] == (-signal.SIGTERM, "released ")


def test_all_managers_are_closed_the_latest_first() -> None:
    code = """
    others = [SafetyManager(name=str(number)) for number in range(3)]
    for other in others:
        other.on_close(lambda name=other.name: os.write(1, name.encode()))
    taken = [other.close_on(signal.SIGTERM) for other in others]
    taken[1]()
    manager.close_on(signal.SIGINT)
    go()
    time.sleep(60)
    """
    assert killed(code, signal.SIGTERM)[:2] == (-signal.SIGTERM, "20")


def nothing(number: int, frame: Any) -> None:
    """A handler of the program's."""


@pytest.fixture
def own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, nothing)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_handler")
def test_what_is_taken_back_is_as_it_was() -> None:
    with SafetyManager() as manager, SafetyManager() as other:
        first = manager.close_on(signal.SIGTERM)
        second = other.close_on(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) != nothing
        first()
        first()
        assert signal.getsignal(signal.SIGTERM) != nothing
        second()
        assert signal.getsignal(signal.SIGTERM) == nothing


@pytest.mark.usefixtures("own_handler")
def test_managers_that_are_closed_or_gone_keep_no_handler() -> None:
    closed = SafetyManager()
    closed.close_on(signal.SIGTERM)
    closed.close()
    gone = SafetyManager()
    gone.close_on(signal.SIGTERM)
    gone.close()
    del gone
    with SafetyManager() as manager:
        back = manager.close_on(signal.SIGTERM)
        back()
    assert signal.getsignal(signal.SIGTERM) == nothing


def test_a_handler_that_came_between_is_the_one_that_was_there(manager: SafetyManager) -> None:
    """What is taken back on another thread stays, since Python lets the main thread alone change it."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=manager.close_on(signal.SIGTERM))
    thread.start()
    thread.join()
    try:
        signal.signal(signal.SIGTERM, nothing)
        back = manager.close_on(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) != nothing
        back()
        assert signal.getsignal(signal.SIGTERM) == nothing
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("numbers", [(), (0,), ("SIGTERM",), (signal.SIGKILL,), (10_000,)])
def test_what_is_no_signal_is_refused(manager: SafetyManager, numbers: tuple[int, ...]) -> None:
    with pytest.raises(LifecycleError, match=r"signal|SIGKILL"):
        manager.close_on(*numbers)


def test_other_threads_are_refused(manager: SafetyManager) -> None:
    refused: list[LifecycleError] = []

    def ask() -> None:
        try:
            manager.close_on(signal.SIGTERM)
        except LifecycleError as error:
            refused.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


def test_a_check_is_asked_by_health(manager: SafetyManager) -> None:
    said = [""]
    remove = manager.add_check(lambda: said[0])
    assert manager.health().ok
    said[0] = "it burns"
    assert manager.health().problems == ("it burns",)
    failing = manager.add_check(lambda: dict[str, str]()["nothing"])
    assert manager.health().problems == ("it burns", "a check failed: KeyError: 'nothing'")
    failing()
    remove()
    assert manager.health().ok
