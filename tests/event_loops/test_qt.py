"""Qt: in processes of their own, since a process has one application, and how it ends is a part of the
matter."""

from __future__ import annotations

import textwrap

import pytest

from tests import support

pytestmark = pytest.mark.needs("pyside6")

PRELUDE = """
import gc, os, sys, threading, time, weakref
from PySide6.QtCore import QCoreApplication, QEvent, QObject, QThread, QTimer
from lifecycle.integrations.event_loops.qt import release_queue
from lifecycle import *
from lifecycle.distribution import *
from lifecycle.errors import *
from lifecycle.fences import *

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def until(condition, seconds=20):
    '''Run the loop until it is so.'''
    timer = QTimer()
    timer.timeout.connect(lambda: condition() and app.quit())
    timer.start(5)
    late = QTimer()
    late.setSingleShot(True)
    late.timeout.connect(lambda: (say("TOO LATE"), app.quit()))
    late.start(seconds * 1000)
    app.exec()

MAIN = threading.get_ident()
released = []
def release(label):
    released.append((label, threading.get_ident() == MAIN))

def thread(fn):
    worker = threading.Thread(target=fn)
    worker.start()
    return worker
"""


def run(code: str) -> list[str]:
    done = support.run_python(
        PRELUDE + textwrap.dedent(code), env={"QT_QPA_PLATFORM": "offscreen"}, timeout=40
    )
    said = done.check().splitlines()
    assert support.beside_failures(done.stderr) == [], done.stderr
    return said


def test_the_qt_loop_releases_its_own_objects() -> None:
    """I4, I6: closed, dropped and failing on other threads, all released on the loop's, whose other events go
    on."""
    assert run("""
    try:
        release_queue()
    except LifecycleError as error:
        say(error)
    app = QCoreApplication([])
    manager = SafetyManager()
    queue = release_queue("widgets")
    def bad(label):
        released.append((label, True))
        raise ValueError("no")
    handles = [manager.register(n, release=release if n else bad, release_on=queue) for n in range(100)]
    lease = handles[1].lease()
    def close():
        for handle in handles:
            handle.close()
        time.sleep(0.02)
        global lease
        lease = None
    worker = thread(close)
    ticks = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(1)
    until(lambda: len(released) == 100 and not queue.backlog)
    worker.join()
    say(len(released), {where for _, where in released}, released[-1][0], bool(ticks), manager.stats().failed)
    report = []
    worker = thread(lambda: report.append(manager.close()))
    until(lambda: report)
    say(report[0].leaked, [info.reason for info in report[0].failed])
    gone = weakref.ref(queue)
    del queue, handles, manager
    def collect():
        gc.collect()       # the queue, and with it the object that stands for the loop, dies on another thread
    thread(collect).join()
    say(gone())
    until(lambda: not any(t.name.startswith("lifecycle-notifier") for t in threading.enumerate()))
    app.processEvents()
    """) == [
        "release_queue('qt') belongs to a Qt event loop: make the QApplication (or QCoreApplication) first",
        "100 {True} 1 True 1",
        "() ['ValueError: no']",
        "None",
    ]


def test_the_end_of_the_application_and_of_the_process() -> None:
    """I3: what is open is released at exit, on the main thread, though no loop runs any more and Qt is half
    gone."""
    assert run("""
    def at_exit(label):
        say("released", label, threading.get_ident() == MAIN)
    app = QCoreApplication([])
    manager = SafetyManager()
    queue = release_queue()
    kept = manager.register("open", release=at_exit, release_on=queue)
    waiting = manager.register("waiting", release=at_exit, release_on=queue)
    QTimer.singleShot(0, app.quit)
    app.exec()
    thread(waiting.close).join()
    del app
    say("end")
    """) == ["end", "released waiting True", "released open True"]


def test_a_qthread_with_a_loop_of_its_own() -> None:
    """I4."""
    assert run("""
    app = QCoreApplication([])
    manager = SafetyManager()
    ready = threading.Event()
    made = {}
    class Worker(QThread):
        def run(self):
            made["ident"] = threading.get_ident()
            made["queue"] = release_queue("worker")
            ready.set()
            self.exec()
            made["left"] = manager.register("last", release=where, release_on=made["queue"]).close()
    def where(label):
        released.append((label, threading.get_ident() == made["ident"]))
    worker = Worker()
    worker.start()
    ready.wait(20)
    handles = [manager.register(n, release=where, release_on=made["queue"]) for n in range(3)]
    say([handle.close(timeout=20) for handle in handles])
    worker.quit()
    worker.wait()
    say(released, made["left"])
    """) == ["[True, True, True]", "[(0, True), (1, True), (2, True), ('last', True)] True"]
