"""Ctrl-C in real life: a SIGINT from outside, while the main thread waits in one of our calls.

`test_interrupts.py` strikes between any two bytecodes; this is about waiting in C, which a signal must end at
once, and about what a program finds afterwards. One process for all, since each strike costs half a second.
"""

from __future__ import annotations

import functools
import itertools
import operator
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from lifecycle import ANY_THREAD, ReleaseQueue, SafetyManager
from lifecycle.testing.interrupts import run_interrupted
from tests.core.adversary import STORM
from tests.core.test_process import PRELUDE
from tests.support import eventually, run_python

STRIKE = """
import contextlib, signal

def strike(what, fn, pause=0.15, ready=None):
    '''Call `fn`, which blocks, and have a SIGINT sent meanwhile: some time after it began, or after `ready` was set.'''
    began = time.monotonic()
    def send():
        if ready is not None:
            ready.wait(30)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGINT)
    sender = threading.Thread(target=send)
    try:
        sender.start()
        fn()
        say(what, "was not interrupted")
    except KeyboardInterrupt:
        pass
    if time.monotonic() - began > 20:
        say(what, "came out late")
    sender.join()

def owned_by_another():
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    return ReleaseQueue("another's", thread=thread)

def check(what, condition):
    if not condition:
        say(what, "is wrong")
"""


def strikes(code: str) -> str:
    done = run_python(PRELUDE + STRIKE + code, timeout=100)
    assert done.check() == "end\n", done
    return done.stderr


def test_in_each_call_that_waits() -> None:
    """I2, I3, I5: it ends the waiting and nothing else: what was closed is shut, what is held stays, the next
    call goes on."""
    strikes("""
manager = SafetyManager(SafetyConfig(finalizer_timeout=30, shutdown_timeout=30))
released = []
def on(place, release=released.append):
    return manager.register(object(), "object", release=release, release_on=place)

for place in (BACKGROUND, ANY_THREAD, ReleaseQueue("own", thread="current")):
    handle = on(place)
    lease = handle.lease()
    strike(f"close(timeout=None) at {place}", lambda: handle.close(timeout=None))
    strike(f"close(timeout=) again at {place}", lambda: handle.close(timeout=60))
    check(f"the door at {place}", not handle.valid and handle.state == "closing" and not handle._record.kind.registry.waiters)
    lease.close()
    check(f"the release at {place}", handle.close(timeout=30) and len(released) == 1)
    released.clear()

queue = owned_by_another()
handle = on(queue)
strike("close() at another's queue", lambda: handle.close(timeout=None))
check("what waits for its owner", handle.state == "due")
queue.lost("test")

go_on = threading.Event()
slow = on(BACKGROUND, lambda obj: go_on.wait(30) and released.append(obj))
strike("close() during a release", slow.close)
strike("unregister() during a release", lambda: manager.unregister(slow, timeout=60))
go_on.set()
check("the release", slow.close(timeout=30) and len(released) == 1)

def ask():
    while True:
        manager.stats()
strike("stats()", ask)

strike("stopping.wait()", lambda: manager.stopping.wait())

def leases():
    with on(ANY_THREAD) as handle:
        while True:
            with handle.lease():
                pass
strike("leases", leases)
check("nothing is left", manager.close().ok and manager.stats().active_objects == 0)

thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
queue = ReleaseQueue("live", thread=thread)
strike("join()", thread.join)       # up to 3.12 this thread now says that it has ended
check("the queue's owner lives", not queue.generation.abandoned())
say("end")
""")


def test_in_the_release_itself() -> None:
    """I3: there it strikes the user's code, whose object has failed; those that wait behind it have their
    turn."""
    said = strikes("""
manager = SafetyManager()
released = []
begun = threading.Event()
def slow(label):
    begun.set()
    time.sleep(0.2)
    released.append(label)
inline = manager.register("inline", release=slow, release_on=ANY_THREAD)
strike("an inline release", inline.close, pause=0.05, ready=begun)
check("its end", inline.state == "failed" and inline.close() is False)
queue = ReleaseQueue("own", thread="current")
handles = [manager.register(n, release=slow, release_on=queue) for n in range(4)]
closer = threading.Thread(target=lambda: [handle.close() for handle in handles])
closer.start()
closer.join()
begun.clear()
strike("drain()", queue.drain, pause=0.3, ready=begun)
queue.drain()
ends = [str(handle.state) for handle in handles]
check(f"the ends {ends}", ends.count("failed") == 1 and ends.count("released") == 3 and len(released) == 3)
check("the figures", manager.stats().failed == 2)
say("end")
""")
    assert said.count("lifecycle.failed") == 2


def test_in_the_closing_of_a_manager() -> None:
    """I3: everything is shut, the rest follows by itself, by a second `close` or at exit, and no ticket is
    held back."""
    strikes("""
released = []
go_on = threading.Event()
def slow(label):
    go_on.wait(30)
    released.append(label)
def manager_with(name, **more):
    manager = SafetyManager(SafetyConfig(finalizer_timeout=30, shutdown_timeout=30), name=name)
    handles = [manager.register(f"{name} {n}", release=slow if n == 2 else released.append) for n in range(4)]
    return manager, handles

manager, handles = manager_with("released")
held = manager.register("held", release=released.append)
lease = held.lease()
strike("manager.close() during a release", manager.close)
check("the doors", not any(handle.valid for handle in (*handles, held)))
go_on.set()
check("all are released", all(handle.close(timeout=30) for handle in handles))
strike("manager.close() with a holder", lambda: manager.close(timeout=None))
lease.close()
check("the last is released", held.close(timeout=30))
check("the report", manager.close().ok)
check("each once", sorted(released) == ["held", *(f"released {n}" for n in range(4))])

go_on.clear()
released.clear()
manager, handles = manager_with("with")
def block():
    with manager:
        pass
strike("with manager", block)
go_on.set()
check("the second close", manager.close().ok and all(handle.state == "released" for handle in handles))
check("each once", sorted(released) == [f"with {n}" for n in range(4)])

manager, handles = manager_with("producer")
def stop():
    time.sleep(30)
manager.on_close(stop)
manager.on_close(lambda: released.append("stopped"))
strike("an on_close callback", manager.close)
check("the end", manager.close().released == 4 and "stopped" in released)

thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
manager, handles = manager_with("thread")
manager.stopping.attach(thread)
strike("waiting for a thread", manager.close)
check("the releases", manager.close(timeout=0.1).running and all(handle.close(timeout=30) for handle in handles))
say("end")
""")


def test_in_a_loop() -> None:
    """I2, I5: `run_leased`, `aclose` and a turn of the loop."""
    strikes("""
import asyncio
from lifecycle.integrations.event_loops.asyncio import aclose, release_queue, run_leased
manager = SafetyManager()
released, used = [], []
def on(label, place=ANY_THREAD, release=released.append):
    return manager.register(label, release=release, release_on=place)

leased = on("leased")
def work(label):
    time.sleep(0.5)
    used.append((label, list(released)))
strike("run_leased", lambda: asyncio.run(run_leased(leased, work)))
check("the thread has finished with it", used == [("leased", [])] and leased.close(timeout=30))

held = on("held")
lease = held.lease()
strike("aclose", lambda: asyncio.run(aclose(held, timeout=None)))
lease.close()
check("the end", held.close(timeout=30))

async def turns():
    queue = release_queue()
    def slow(label):
        begun.set()
        time.sleep(0.03)
        released.append(label)
    handles = [on(n, queue, slow) for n in range(10)]
    kept.extend((queue, handles))
    await asyncio.to_thread(lambda: [handle.close() for handle in handles])
    await asyncio.sleep(30)
kept = []
begun = threading.Event()
strike("a turn", lambda: asyncio.run(turns()), pause=0.05, ready=begun)
queue, handles = kept
queue.drain()
ends = [str(handle.state) for handle in handles]
check(f"the ends {ends}", ends.count("released") >= 9 and not queue.backlog)
check("the close", not manager.close().leaked)
say("end")
""")


def test_during_a_collection() -> None:
    """It comes, as it does without the library, whoever collects: no Python code of ours runs in
    `gc.callbacks`."""
    done = run_python(
        PRELUDE
        + """
ignored = []
sys.unraisablehook = lambda info: ignored.append(info)
signal.signal(signal.SIGALRM, signal.default_int_handler)
manager = SafetyManager()
kept = [manager.register(object(), release=id) for _ in range(3)]
heap = [[number] for number in range(300_000)]
came = tries = 0
until = time.monotonic() + 30
while tries < 20 and time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        gc.collect()
        time.sleep(0.05)
    except KeyboardInterrupt:
        came += 1
    tries += 1
say(came == tries, ignored)
"""
    )
    assert done.check() == "True []\n", done


# -- before the first line of a release ----------------------------------------------------------------------


class Ended:
    """Counts how often it was ended."""

    def __init__(self) -> None:
        self.ends = 0

    def close(self) -> None:
        self.ends += 1

    def close_by(self, *, by: int) -> None:
        self.ends += by


def end(native: Ended) -> None:
    native.ends += 1


def struck_on_the_way_into(
    code: CodeType, call: Callable[[], object], error: type[BaseException] = KeyboardInterrupt
) -> None:
    """Call it, with Ctrl-C as the function of `code` is entered for the first time: where CPython looks for
    signals before anything of it has run."""
    left = [code]

    def strike(frame: FrameType, event: str, _: object) -> None:
        if left and frame.f_code is code:
            left.clear()
            raise error

    before = sys.gettrace()
    sys.settrace(strike)
    try:
        with pytest.raises(error):
            call()
    finally:
        sys.settrace(before)
    assert not left


class Ends:
    """Is called as a function is."""

    def __call__(self, native: Ended) -> None:
        native.ends += 1


def closure(*, by: int) -> Callable[[Ended], None]:
    def end_by(native: Ended) -> None:
        native.ends += by

        def inner() -> Ended:
            return native

        inner()

    return end_by


END_BY = closure(by=1)
RELEASES: dict[str, Any] = {
    "function": end,
    "name": "close",
    "method": Ended.close,
    "partial": functools.partial(end),
    "closure": END_BY,
    "callable": Ends(),
    "with keywords": operator.methodcaller("close_by", by=1),
}
CODES: dict[str, Any] = {
    "name": Ended.close,
    "method": Ended.close,
    "closure": END_BY,
    "callable": Ends.__call__,
    "with keywords": Ended.close_by,
}


@pytest.mark.parametrize("by", RELEASES)
@pytest.mark.parametrize("where", ["closed", "in a queue", "cleaned up"])
def test_before_the_first_line_of_a_release_it_is_called_again(by: str, where: str) -> None:
    with SafetyManager(name="struck") as manager:
        native = Ended()
        queue = ReleaseQueue("mine", thread="current")
        handle = manager.register(
            native, release=RELEASES[by], release_on=queue if where == "in a queue" else ANY_THREAD
        )
        if where == "cleaned up":
            manager.add_cleanup(handle, end, native)
        code = CODES.get(by, end).__code__
        struck_on_the_way_into(end.__code__ if where == "cleaned up" else code, handle.close)
        assert native.ends == 0
        queue.drain()
        manager.stats()
        eventually(lambda: handle.close(timeout=20))
        assert native.ends == (2 if where == "cleaned up" else 1)
        assert handle.state == "released"
        assert manager.stats().failed == 0


@pytest.mark.parametrize("where", ["closed", "cleaned up"])
def test_so_it_is_where_a_handler_raises_something_else(where: str) -> None:
    """A time limit, say. What raises before the release has begun is no failure of the release."""
    native = Ended()
    with SafetyManager(name="struck") as manager:
        handle = manager.register(native, release="close", release_on=ANY_THREAD)
        if where == "cleaned up":
            manager.add_cleanup(handle, end, native)
        code = end.__code__ if where == "cleaned up" else Ended.close.__code__
        struck_on_the_way_into(code, handle.close, TimeoutError)
        assert native.ends == 0
        assert handle.close(timeout=20)
        assert native.ends == (2 if where == "cleaned up" else 1)
        assert manager.stats().failed == 0
        assert not manager.close().errors


def test_in_a_release_that_has_begun_it_is_not_called_again() -> None:
    """Whether its native is gone is not known."""

    def half(native: Ended) -> None:
        native.ends += 1
        raise KeyboardInterrupt

    native = Ended()
    with SafetyManager(name="struck") as manager:
        handle = manager.register(native, release=half, release_on=ANY_THREAD)
        with pytest.raises(KeyboardInterrupt):
            handle.close()
        assert handle.state == "failed"
        assert native.ends == 1


# -- a second one while the library decides about the first ---------------------------------------------------


class First(KeyboardInterrupt):
    """The one that strikes in the release or the cleanup."""


def on_entry(code: CodeType) -> Callable[[FrameType, str, object], None]:
    """For `sys.setprofile`: strikes as the function of `code` is entered for the first time."""
    left = [code]

    def strike(frame: FrameType, event: str, _: object) -> None:
        if left and event == "call" and frame.f_code is code:
            left.clear()
            raise First

    return strike


@pytest.mark.parametrize("where", ["closed", "in a queue", "cleaned up"])
@pytest.mark.parametrize("begun", [True, False], ids=["in it", "on its entry"])
def test_an_interrupt_is_raised_once_and_to_whoever_was_struck(where: str, begun: bool) -> None:
    """Struck twice, `close` raises the second one. The first is not left for whoever takes up the ticket."""
    for strike_at in itertools.count(1, 1 if STORM > 1 else 5):
        if not struck_twice(where, begun, strike_at):
            break


def struck_twice(where: str, begun: bool, strike_at: int) -> bool:
    """One close with two interrupts, the second at point number `strike_at`; False when there is no such point."""
    ran: list[str] = []

    def work(*_: object) -> None:
        ran.append("work")
        if begun:
            raise First

    manager = SafetyManager(name="struck")
    queue = ReleaseQueue("mine", thread="current")
    cleaned = where == "cleaned up"
    handle = manager.register(
        Ended(), release=end if cleaned else work, release_on=queue if where == "in a queue" else ANY_THREAD
    )
    if cleaned:
        for cleanup in (lambda: ran.append("after"), work, lambda: ran.append("before")):
            manager.add_cleanup(handle, cleanup)

    def close() -> None:
        if not begun:
            sys.setprofile(on_entry(work.__code__))
        try:
            handle.close()
        finally:
            sys.setprofile(None)

    struck = run_interrupted(close, strike_at)
    sys.setprofile(None)
    had_begun = "work" in ran
    try:
        queue.drain()
        manager.register(Ended(), release=end, release_on=ANY_THREAD).close()
        handle.close()
    except First:
        # In the release that is only called here.
        assert begun
        assert not had_begun
    queue.drain()
    manager.stats()
    eventually(lambda: handle.close(timeout=20) or handle.state == "failed")
    assert isinstance(struck.error, KeyboardInterrupt) or not struck.place
    assert ran == (["before", "work", "after"] if cleaned else ["work"])
    assert handle.state == ("released" if cleaned or not begun else "failed")
    assert manager.stats().failed == (begun and not cleaned)
    assert manager.close().ok is (cleaned or not begun)
    return bool(struck.place)
