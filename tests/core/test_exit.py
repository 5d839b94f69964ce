"""The end of the process, when others do not play along: hanging callbacks, Ctrl-C, daemons, late managers,
no stderr, loops.

Each scenario is a program of its own whose output and errors are checked. What does not disturb each other
shares one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lifecycle._core.runtime import free_threaded as FREE_THREADED
from tests import support
from tests.core.test_process import FORK, NO_FORK_WARNING, PRELUDE, quiet, run


def test_a_hanging_on_close_callback_costs_its_share_of_the_budget() -> None:
    """I6: the others are called, everything is released, and the report names it."""
    done = run(
        """
    manager = SafetyManager(SafetyConfig(shutdown_timeout=2))
    handle = manager.register(Native("open"), release=Native.free)
    def hang():
        time.sleep(600)
    def close_it_again():
        say("closed by a callback", manager.close() is None)
    manager.on_close(lambda: say("called"))
    manager.on_close(hang)
    manager.on_close(lambda: sys.exit(5))
    """,
        timeout=30,
    )
    assert done.check().splitlines() == ["called", "released open"], done
    assert done.stderr.count("lifecycle.shutdown") == 1
    assert "hang" in done.stderr
    assert "did not return within 1 s and was left behind" in done.stderr
    assert "SystemExit: 5" in done.stderr


def test_a_callback_at_exit_may_close_its_manager_itself() -> None:
    """I5."""
    assert quiet("""
    manager = SafetyManager(name="own")
    handle = manager.register(Native("open"), release=Native.free)
    manager.on_close(lambda: say("closed", manager.close().ok))
    """) == ["released open", "closed True"]


def test_ctrl_c_during_the_exit_pass_ends_the_waiting_and_not_the_closing() -> None:
    """I3."""
    done = run(
        """
    import signal
    manager = SafetyManager(SafetyConfig(finalizer_timeout=20, shutdown_timeout=20))
    handles = [manager.register(Native(n), release=Native.free) for n in range(3)]
    def slow(native):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        native.free()
    handles.append(manager.register(Native("slow"), release=slow))
    other = SafetyManager(name="other")
    kept = other.register(Native("other"), release=Native.free)
    manager = None
    """,
        timeout=40,
    )
    assert done.rc == 0, done
    assert sorted(done.stdout.splitlines()) == [
        "released 0",
        "released 1",
        "released 2",
        "released other",
        "released slow",
    ], done
    assert done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr


def test_a_daemon_that_lets_go_in_a_moment_is_waited_for() -> None:
    """I2, I3: on a thread of its own and on a loop's, and the exit pass does not wait where there is nobody
    to wait for."""
    assert quiet("""
    import asyncio
    from lifecycle.integrations.event_loops.asyncio import release_queue
    manager = SafetyManager()
    handle = manager.register(Native("leased"), release=Native.free)
    ready = threading.Barrier(3)
    def work():
        with handle.lease():
            ready.wait()
            time.sleep(0.1)
    async def main():
        global looped
        here = threading.get_ident()
        def release(native):
            native.free()
            say("on the loop", threading.get_ident() == here)
        looped = manager.register(Native("looped"), release=release, release_on=release_queue())
        with looped.lease():
            ready.wait()
            await asyncio.sleep(0.1)
        await asyncio.sleep(600)
    threading.Thread(target=work, daemon=True).start()
    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    ready.wait()
    """) in (
        ["released leased", "released looped", "on the loop True"],
        ["released looped", "on the loop True", "released leased"],
        ["released looped", "released leased", "on the loop True"],
    )
    done = run("""
    manager = SafetyManager(SafetyConfig(shutdown_timeout=60))
    began = time.monotonic()
    atexit.register(lambda: None)
    handle = manager.register(Native("left"), release=Native.free)
    lease = handle.lease()
    class Told:
        def __call__(self, event):
            if event.kind == "shutdown":
                say(dict(event.fields)["leaked"], time.monotonic() - began < 30)
    manager.add_observer(Told())
    """)
    assert done.check().splitlines() == ["1 True"]
    assert "(still held)" in done.stderr


def test_managers_and_objects_made_late_are_closed_as_well() -> None:
    """I3: by an exit hook before ours, by one behind it, and by another object's release during the exit
    pass."""
    said = quiet("""
    def late(name):
        manager = SafetyManager(name=name)
        for place in (BACKGROUND, ANY_THREAD):
            manager.register(Native(f"{name} {place!r}"), release=Native.free, release_on=place, keep=True)
        say("registered", name)
    atexit.register(late, "behind")
    manager = SafetyManager()
    def again(native):
        native.free()
        try:
            manager.register(Native("too late"), release=Native.free)
        except ClosedError:
            say("refused")
        late("in a release")
    handle = manager.register(Native("first"), release=again)
    atexit.register(late, "before")
    """)
    released = {"BACKGROUND", "ANY_THREAD"}
    assert said[0] == "registered before"
    assert set(said) == {
        "refused",
        "released first",
        "released too late",
        *(f"registered {name}" for name in ("before", "behind", "in a release")),
        *(f"released {name} {place}" for name in ("before", "behind", "in a release") for place in released),
    }
    assert len(said) == len(set(said))
    assert (
        said.index("released before ANY_THREAD")
        < said.index("released first")
        < said.index("registered behind")
    )


def test_a_mark_not_to_wait_that_was_never_taken_away() -> None:
    """I3: on the main thread at exit nothing else will run."""
    assert quiet("""
    mark = never_wait()
    mark.__enter__()
    manager = SafetyManager()
    handle = manager.register(Native("open"), release=Native.free)
    """) == ["released open"]


@pytest.mark.parametrize("how", ["sys.stderr = None", "sys.stderr.close()", "os.close(2)"])
def test_without_stderr_the_rest_is_released(how: str) -> None:
    """I6: what there would be to tell is lost, and nothing goes to standard output, which is not ours."""
    said = quiet(f"""
    manager = SafetyManager()
    def bad(native):
        raise ValueError("no")
    handles = [manager.register(Native(n), release=bad if n == 1 else Native.free) for n in range(3)]
    del handles[0]
    {how}
    """)
    assert sorted(said) == ["released 0", "released 2"]


@pytest.mark.parametrize(
    ("ending", "code", "released"),
    [
        ("os._exit(3)", 3, False),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)", -15, False),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, False),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)", 7, True),
    ],
)  # fmt: skip
def test_endings_that_run_no_hooks_and_one_that_does(ending: str, code: int, released: bool) -> None:
    """`os._exit` and a signal without a handler end the process as it stands; a handler that raises
    `SystemExit` is an exit."""
    done = run(f"""
    import signal
    manager = SafetyManager()
    handle = manager.register(Native("open"), release=Native.free)
    with handle.lease():
        {ending}
    """)
    assert done.rc == code, done
    assert done.stdout.splitlines() == (["released open"] if released else [])
    assert "lifecycle" not in done.stderr


@pytest.mark.parametrize("how", ["sys.exit(4)", "os.kill(os.getpid(), signal.SIGINT)"])
def test_the_end_in_a_running_loop(how: str) -> None:
    """I2, I3, I4: tasks in a lease, a thread in `run_leased`, objects of the loop."""
    done = run(f"""
    import asyncio, signal
    from lifecycle.integrations.event_loops.asyncio import release_queue, run_leased
    manager = SafetyManager()
    main_thread = threading.get_ident()
    def on_loop(native):
        native.free()
        assert threading.get_ident() == main_thread
    async def main():
        global handles
        queue = release_queue()
        handles = [manager.register(Native(n), release=on_loop, release_on=queue) for n in ("leased", "closed", "open")]
        handles.append(manager.register(Native("worked on"), release=Native.free))
        async def user():
            with handles[0].lease():
                await asyncio.sleep(600)
        def work(native):
            time.sleep(0.3)
            say("used", native.label)
        tasks = [asyncio.create_task(user()), asyncio.create_task(run_leased(handles[3], work))]
        await asyncio.sleep(0.1)
        closer = threading.Thread(target=handles[1].close)
        closer.start()
        closer.join()
        {how}
        await asyncio.sleep(20)
    asyncio.run(main())
    """)
    assert done.rc == (4 if "exit" in how else -2), done
    said = done.stdout.splitlines()
    assert sorted(said) == [
        "released closed",
        "released leased",
        "released open",
        "released worked on",
        "used worked on",
    ], done
    assert said.index("used worked on") < said.index("released worked on")
    assert "lifecycle" not in done.stderr.replace("KeyboardInterrupt", "").split("Traceback")[0]


def test_what_a_queue_left_behind_says_why() -> None:
    """I9: an owner that has ended, one that does not drain, and no waiting for the first."""
    done = run("""
    manager = SafetyManager(SafetyConfig(shutdown_timeout=0.5))
    made = {}
    def own(name):
        made[name] = manager.register(Native(name), release=Native.free, release_on=ReleaseQueue(name, thread="current"))
    thread = threading.Thread(target=own, args=("widowed",))
    thread.start(); thread.join()
    def sleep():
        own("idle")
        time.sleep(600)
    threading.Thread(target=sleep, daemon=True).start()
    while "idle" not in made:
        time.sleep(0.001)
    """)
    assert done.check() == ""
    assert "the thread that owns queue 'widowed' has ended" in done.stderr
    assert "queue 'idle' was not drained by its owner" in done.stderr
    assert done.stderr.count("lifecycle.leak") == 2
    assert done.stderr.count("lifecycle.shutdown") == 1


def test_our_hooks_among_those_of_others() -> None:
    """Those registered later run before ours, with everything usable; those registered earlier after it, with
    all released."""
    said = quiet("""
    def look(when):
        say(when, manager.closed, handle.state)
    atexit.register(look, "registered before:")
    manager = SafetyManager()
    atexit.register(look, "registered after:")
    handle = manager.register(Native("open"), release=Native.free)
    weakref.finalize(manager, say, "finalize")
    import logging, tempfile, multiprocessing.util, concurrent.futures.thread
    pool = concurrent.futures.thread.ThreadPoolExecutor(1)
    pool.submit(lambda: (time.sleep(0.05), say("pool", handle.state)))
    """)
    assert said[:4] == [
        "pool valid",
        "registered after: False valid",
        "released open",
        "registered before: True released",
    ] or (FREE_THREADED and set(said[:4]) >= {"pool valid", "released open"})
    assert said[4:] == ["finalize"] or "finalize" in said


PENDING = """
    import ctypes, signal
    interrupt = ctypes.CDLL(None)["raise"]
    manager = SafetyManager(SafetyConfig(finalizer_timeout=20, shutdown_timeout=20))
    handles = [manager.register(Native(n), release=Native.free) for n in range(3)]
    other = SafetyManager(name="other")
    kept = other.register(Native("other"), release=Native.free)
"""
ALL_RELEASED = ["released 0", "released 1", "released 2", "released other"]


@pytest.mark.parametrize(
    "presses",
    [
        "atexit.register(interrupt, 2)",
        "atexit.register(lambda: interrupt(2))",
        "atexit.register(interrupt, 2); atexit.register(interrupt, 2)",
        """
    def again(info):
        sys.__unraisablehook__(info)
        if struck.pop():
            interrupt(2)
    struck = [False, True, True]
    sys.unraisablehook = again
    atexit.register(interrupt, 2)
        """,
        """
    def again(*error):
        sys.__excepthook__(*error)
        if struck.pop():
            interrupt(2)
    struck = [False, False, False, True, True]
    sys.excepthook = again
    atexit.register(interrupt, 2)
        """,
        "weakref.finalize(manager, int); atexit.register(interrupt, 2)",
    ],
    ids=["in C", "in Python", "two", "in the unraisable hook", "in the except hook", "finalize"],
)
def test_ctrl_c_that_is_pending_as_the_exit_pass_begins(presses: str) -> None:
    """I3: it strikes before the first line of the pass, which is entered again, and is shown."""
    done = run(textwrap.dedent(PENDING) + textwrap.dedent(presses))
    assert sorted(done.check().splitlines()) == ALL_RELEASED, done
    assert "KeyboardInterrupt" in done.stderr


def test_ctrl_c_before_the_first_line_of_a_managers_own_end() -> None:
    """I3: in the loop's own steps."""
    done = run(
        textwrap.dedent(PENDING)
        + """
from lifecycle._core import runtime
def strike(frame, event, arg):
    if event == "call" and frame.f_code.co_name == "at_exit" and struck:
        struck.pop()
        raise KeyboardInterrupt("pending")
struck = [1]
atexit.register(sys.settrace, strike)
"""
    )
    assert sorted(done.check().splitlines()) == ALL_RELEASED, done
    assert done.stderr.count("KeyboardInterrupt: pending") == 1


@FORK
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "presses", ["Finalize(None, interrupt, (2,), exitpriority=200)", "atexit.register(interrupt, 2)"]
)
def test_ctrl_c_as_a_child_of_multiprocessing_ends(tmp_path: Path, method: str, presses: str) -> None:
    """I3: it ends the child's own finalizers, among which the exit pass is, and the pass is entered by
    another way."""
    script = tmp_path / "program.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent(f"""
        import ctypes, multiprocessing
        from multiprocessing.util import Finalize

        def work():
            global handles
            interrupt = ctypes.CDLL(None)["raise"]
            manager = SafetyManager()
            handles = [manager.register(Native(n), release=Native.free) for n in range(2)]
            {presses}

        if __name__ == "__main__":
            process = multiprocessing.get_context({method!r}).Process(target=work)
            process.start()
            process.join()
            say("ended")
        """)
    )
    done = subprocess.run(
        [sys.executable, *NO_FORK_WARNING, str(script)],
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done
    assert sorted(done.stdout.splitlines()) == ["ended", "released 0", "released 1"], done


def test_of_very_many_leaks_the_first_are_named_and_the_others_counted_by_type() -> None:
    """20 of them, the newest first: a log with each of a million is no help."""
    done = support.run_python(
        """
        from lifecycle import ANY_THREAD, SafetyManager

        manager = SafetyManager(name="many")
        handles, leases = [], []
        for number in range(30):
            of = "frame" if number < 8 else "buffer"
            handles.append(manager.register([number], of, release=list.clear, release_on=ANY_THREAD))
            leases.append(handles[-1].lease())
            leases[-1].__enter__()
        """
    )
    assert done.rc == 0
    named = [line for line in done.stderr.splitlines() if "not released at exit: object" in line]
    assert len(named) == 20
    (rest,) = [line for line in done.stderr.splitlines() if "not released at exit, further" in line]
    counted = dict(reversed(words.split(" of type ")) for words in re.findall(r"\d+ of type \w+", rest))
    assert {kind: int(number) for kind, number in counted.items()} == {"frame": 8, "buffer": 2}
