"""GLib: a main context that releases its own objects, in processes of their own."""

from __future__ import annotations

import textwrap

import pytest

from tests import support

pytestmark = pytest.mark.needs("gstreamer")  # PyGObject comes with it

PRELUDE = """
import gc, os, threading, time
from gi.repository import GLib
from lifecycle.integrations.event_loops.glib import release_queue
from lifecycle import *
from lifecycle.distribution import *
from lifecycle.errors import *
from lifecycle.fences import *

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def until(condition, context=None, seconds=20):
    '''Run the loop until it is so.'''
    loop = GLib.MainLoop(context)
    until = time.monotonic() + seconds
    def look():
        if condition() or time.monotonic() > until:
            loop.quit()
            return False
        return True
    source = GLib.Timeout(2)
    source.set_callback(lambda *_: look())
    source.attach(loop.get_context())
    loop.run()
    if not condition():
        say("TOO LATE")

released = []
def release(label):
    released.append((label, threading.get_ident()))
MAIN = threading.get_ident()
"""


def run(code: str) -> list[str]:
    done = support.run_python(PRELUDE + textwrap.dedent(code), timeout=40)
    said = done.check().splitlines()
    assert support.beside_failures(done.stderr) == [], done.stderr
    return said


def test_a_main_loop_releases_its_own_objects() -> None:
    """I4, I6: closed and dropped on other threads, one failing, all released on the loop's thread, without
    polling."""
    assert run("""
    manager = SafetyManager()
    queue = release_queue()

    def fail(label):
        raise ValueError(label)

    handles = [manager.register(f"thing {n}", "thing", release=fail if n == 5 else release, release_on=queue) for n in range(20)]
    def close_all():
        while handles:
            handles.pop().close()
    worker = threading.Thread(target=close_all)
    worker.start()
    until(lambda: len(released) == 19)
    worker.join()
    say({ident == MAIN for _, ident in released}, queue.backlog, manager.stats().types["thing"].ended["failed"])
    handle = manager.register("late", "thing", release=release, release_on=queue)
    say(handle.close(), released[-1][0])
    say([info.name or info.reason for info in manager.close().failed])
    """) == ["{True} 0 1", "True late", "['ValueError: thing 5']"]


def test_a_context_of_another_thread() -> None:
    assert run("""
    manager = SafetyManager()
    context = GLib.MainContext()
    ready, stop, box = threading.Event(), threading.Event(), []

    def serve():
        context.push_thread_default()
        box.append(release_queue("worker"))
        ready.set()
        until(lambda: stop.is_set() and len(released) == 5, context)
        context.pop_thread_default()

    worker = threading.Thread(target=serve)
    worker.start()
    ready.wait(20)
    for n in range(5):
        handle = manager.register(f"thing {n}", "thing", release=release, release_on=box[0])
        say(handle.close(timeout=20))
    stop.set()
    worker.join(20)
    say({ident == MAIN for _, ident in released}, {ident == worker.ident for _, ident in released})
    try:
        release_queue("x", 3)
    except LifecycleError as error:
        say("MainContext" in str(error))
    """) == ["True"] * 5 + ["{False} {True}", "True"]


def test_what_is_open_at_exit_is_released() -> None:
    assert run("""
    manager = SafetyManager()
    queue = release_queue()
    handle = manager.register("thing", release=lambda label: say("released", threading.get_ident() == MAIN), release_on=queue)
    until(lambda: True)
    """) == ["released True"]
