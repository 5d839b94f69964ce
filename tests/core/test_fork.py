"""Forks at awkward moments, from awkward places, and the children of `multiprocessing`: in real processes
whose stderr is checked.

The basic rules are in `test_process.py`. I4 everywhere: a child releases nothing of its parent's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import support
from tests.core.test_process import CHILD, FORK, NO_FORK_WARNING, PRELUDE, forking, run

TELLS = ("lifecycle.orphaned", "lifecycle.panic", "lifecycle.failed", "lifecycle.late", "DeprecationWarning")


def script(tmp_path: Path, code: str, *argv: str) -> list[str]:
    """Run `code` as a file, as `multiprocessing` wants it; what it said, having seen that it complained of
    nothing."""
    path = tmp_path / "program.py"
    path.write_text(PRELUDE + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, *NO_FORK_WARNING, str(path), *argv],
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if not any(word in line for word in TELLS)]
    assert (done.returncode, complaints) == (0, []), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "lifecycle." not in line]


MULTIPROCESSING = """
    manager = SafetyManager(name="early")     # before multiprocessing is there
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    queue = ReleaseQueue("gl", thread="current")

    def work(label):
        '''Leaves everything open, in the module's manager and in one of its own, kept and in globals.'''
        global mine
        mine = [manager.register(Native(f"{label} {n}"), release=Native.free, release_on=place)
                for n, place in enumerate((BACKGROUND, ANY_THREAD, queue))]
        own = SafetyManager(name="own")
        own.register(Native(f"{label} own"), release=Native.free, keep=True)
        def use():
            time.sleep(0.1)
            with mine[0].lease() as native:       # no daemon: waited for, as in any process
                say("used", native.label)
        threading.Thread(target=use).start()
        if label == "raised":
            sys.exit(3)
        return label

    if __name__ == "__main__":
        parents = manager.register(Native("parent's"), release=Native.free)
        context = multiprocessing.get_context(sys.argv[1])
        for label in ("ended", "raised"):
            process = context.Process(target=work, args=(label,))
            process.start()
            process.join()
            say(label, process.exitcode)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            say("pool", pool.submit(work, "pooled").result())
        say("parent", parents.state)
"""


@FORK
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_multiprocessing_child_releases_what_it_leaves_open(tmp_path: Path, method: str) -> None:
    """I3: such children end by `os._exit`, past the hooks of an ordinary exit."""
    said = script(tmp_path, MULTIPROCESSING, method)
    for label in ("ended", "raised", "pooled"):
        for name in ("0", "1", "2", "own"):
            assert said.count(f"released {label} {name}") == 1, said
        assert said.index(f"used {label} 0") < said.index(f"released {label} 0")
    assert [line for line in said if not line.startswith(("released", "used"))] == [
        "ended 0",
        "raised 3",
        "pool pooled",
        "parent valid",
    ]
    assert said[-1] == "released parent's"
    assert said.count("released parent's") == 1


@FORK
def test_a_handle_is_not_sent_to_another_process(tmp_path: Path) -> None:
    """I9: the refusal says what to do instead, and costs nothing."""
    assert script(
        tmp_path,
        """
    import multiprocessing
    manager = SafetyManager()
    if __name__ == "__main__":
        handle = manager.register(Native(), release=Native.free)
        for method in ("spawn", "forkserver"):
            try:
                multiprocessing.get_context(method).Process(target=print, args=(handle,)).start()
            except TypeError as error:
                say("send its data instead" in str(error), handle.state)
    """,
    ) == ["True valid", "True valid", "released native"]


@FORK
def test_forks_from_every_place_that_runs_users_code() -> None:
    """I5: the child's own objects work there and then, and the parent goes on."""
    done = run(
        CHILD
        + """
import signal
manager = SafetyManager()
other = manager.register(Native("other"), release=Native.free)
parent = os.getpid()
places = []

def fork(where):
    def child():
        own = manager.register(Native("own"), release=Native.free, release_on=ANY_THREAD)
        assert own.close() and other.state == "orphaned", (own, other)
        timed = manager.register(Native("timed"), release=Native.free)
        assert timed.close(timeout=20), timed
        assert manager.stats().active_objects == 0
    in_child(child)
    places.append(where)
    return True

for place in (BACKGROUND, ANY_THREAD, ReleaseQueue("own", thread="current")):
    manager.register(Native(), release=lambda native: fork("release"), release_on=place).close(timeout=20)
handle = manager.register(Native("cleaned"), release=Native.free)
manager.add_cleanup(handle, fork, "cleanup")
handle.close(timeout=20)
manager.factory(lambda: fork("factory") and Native("made"), release=Native.free)().close(timeout=20)
manager.policy("validated", validate=lambda native: fork("validator"))
with manager.register(Native("validated"), "validated", release=Native.free) as handle:
    handle.lease().close()
manager.safe_access(other, lambda native: fork("access"))
class Garbage:
    def __del__(self):
        fork("collector")
garbage = Garbage()
garbage.me = garbage
del garbage
gc.collect()
class Watched: pass
watched = Watched()
manager.set_safe_finalizer(watched, fork, "safe finalizer")
del watched
told = threading.Event()
def observe(event):
    if event.kind == "panic" and os.getpid() == parent:  # a child may be told what its parent had not counted yet
        fork("observer")
        told.set()
remove = manager.add_observer(observe)
manager.report_panic("test", ValueError("told"))
told.wait(20)
remove()
thread = threading.Thread(target=fork, args=("thread",))
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: fork("signal handler"))
os.kill(os.getpid(), signal.SIGUSR1)
while "safe finalizer" not in places or "signal handler" not in places:
    time.sleep(0.01)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
manager.on_close(lambda: say("parent", other.state))
say(manager.close().ok, sorted(places))
""",
        args=NO_FORK_WARNING,
        timeout=60,
    )
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert [line for line in said if not line.startswith("released")] == [
        *["child ended 0"] * 12,
        "parent valid",
        "True ['access', 'cleanup', 'collector', 'factory', 'observer', 'release', 'release', 'release', 'safe finalizer', "
        "'signal handler', 'thread', 'validator']",
    ], done
    assert said.count("released own") == said.count("released timed") == said.count("child ended 0")
    assert said.count("released other") == 1
    assert "Traceback" not in done.stderr, done.stderr


@FORK
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_child_that_comes_back_from_a_release_on_a_thread_of_ours_ends(how: str) -> None:
    """I5: in the child that thread is the only one, and nobody will ever give it work."""
    done = forking(f"""
    manager = SafetyManager()
    def forks(*_):
        pid = os.fork()
        if pid:
            say("child ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        elif {how == "raises"}:
            raise ValueError("in the child")
    manager.register(Native(), release=forks).close(timeout=25)
    told = threading.Event()
    def observe(event):
        if event.kind == "panic":
            forks()
            told.set()
    manager.add_observer(observe)
    manager.report_panic("test", ValueError("told"))
    told.wait(20)
    say(manager.close().ok)
    """)
    assert [line for line in done.check().splitlines() if "lifecycle." not in line] == [
        "child ended 0",
        "child ended 0",
        "True",
    ], done


@FORK
def test_a_fork_in_a_running_loop() -> None:
    """I4: the child has no loop, and does not ring its parent's; a queue of the parent's is drained by hand
    there, a loop of its own has a queue of its own."""
    done = forking("""
    import asyncio
    from lifecycle.integrations.event_loops.asyncio import aclose, release_queue
    manager = SafetyManager()

    def child(queue, handles):
        say([str(handle.state) for handle in handles], [handle.close() for handle in handles])
        handles.clear()
        own = manager.register(Native("child's"), release=Native.free, release_on=queue)
        thread = threading.Thread(target=own.close)
        thread.start()
        thread.join()
        say(queue.backlog, queue.drain(), queue.problem == "", own.state)
        say([t.name for t in threading.enumerate() if "bell" in t.name])
        def run():
            async def main():
                second = manager.register(Native("looped"), release=Native.free, release_on=release_queue())
                await asyncio.to_thread(second.close)
                say(await aclose(second, timeout=20))
            asyncio.run(main())
        thread = threading.Thread(target=run)      # this thread's running loop is the parent's, says asyncio
        thread.start()
        thread.join()
        manager.close()
        os._exit(5)

    async def main():
        queue = release_queue()
        handles = [manager.register(Native(n), release=Native.free, release_on=queue) for n in range(3)]
        handles[0].close()
        waiting = manager.register(Native("waiting"), release=Native.free, release_on=queue)
        lease = waiting.lease()
        pid = os.fork()
        if pid == 0:
            child(queue, handles)
        say("child ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        threading.Thread(target=waiting.close).start()
        lease.close()
        say(await aclose(waiting, timeout=20), await aclose(handles[1]), await aclose(handles[2]))
    asyncio.run(main())
    """)
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert said == [
        "released 0",
        "['released', 'orphaned', 'orphaned'] [True, False, False]",
        "released child's",
        "1 1 True released",
        "[]",
        "released looped",
        "True",
        "child ended 5",
        "released waiting",
        "released 1",
        "released 2",
        "True True True",
    ], done
    assert "Traceback" not in done.stderr


@FORK
def test_children_of_children_and_of_threads() -> None:
    """I4: each generation has its own, and an ordinary exit in each."""
    done = forking("""
    manager = SafetyManager()
    handles = []
    def descend(depth):
        handles.append(manager.register(Native(depth), release=Native.free, native=1))
        pid = os.fork() if depth < 3 else -1
        if pid == 0:
            descend(depth + 1)
        if pid > 0:
            os.waitpid(pid, 0)
        say(depth, [str(handle.state) for handle in handles])
        sys.exit(0)
    descend(0)
    """)
    assert [line for line in done.check().splitlines() if "lifecycle." not in line] == [
        line
        for depth in (3, 2, 1, 0)
        for line in (f"{depth} {['orphaned'] * depth + ['valid']}", f"released {depth}")
    ], done
    done = forking("""
    manager = SafetyManager()
    parents = manager.register(Native("parent's"), release=Native.free)
    def work():
        pid = os.fork()
        if pid == 0:
            own = manager.register(Native("child's"), release=Native.free)
            say(own.close(), parents.state, threading.active_count() > 0)
            say(manager.close().ok)
            os._exit(6)
        say("child ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    """)
    assert [line for line in done.check().splitlines() if "lifecycle." not in line] == [
        "released child's",
        "True orphaned True",
        "True",
        "child ended 6",
        "released parent's",
    ], done


@FORK
def test_forks_while_a_lock_of_the_whole_process_is_held() -> None:
    """I5: the thread that holds it is not in the child."""
    done = forking(
        CHILD
        + """
from lifecycle import profiling
from lifecycle._core import release as releases
manager = SafetyManager()
held, go_on = threading.Event(), threading.Event()
def hold():
    with releases.ownership:
        held.set()
        go_on.wait(20)
holder = threading.Thread(target=hold)
holder.start()
held.wait()
def child():
    handle = manager.register(object(), release=id, native=1)
    try:
        manager.register(object(), "object", release=id, native=1)
        manager.register(object(), "object", release=id, native=1)
    except DuplicateError as error:
        say("refused")
    manager.add_cleanup(handle, say, "cleaned")
    say(handle.close(timeout=10))
def me():
    with profiling._starting:                # this thread's own hold goes on in the child
        in_child(child)
me()
in_child(child)
go_on.set()
holder.join()
"""
    )
    assert [line for line in done.check().splitlines() if "lifecycle." not in line] == [
        "refused",
        "cleaned",
        "True",
        "child ended 0",
    ] * 2, done


@FORK
def test_forks_while_queues_loops_and_finalizers_are_busy() -> None:
    """I5: in the middle of whatever it is."""
    done = run(
        CHILD
        + """
import asyncio
from lifecycle.integrations.event_loops.asyncio import release_queue, run_leased
manager = SafetyManager(name="busy")
stop = False
class Thing: pass
def dropping():
    while not stop:
        thing = Thing()
        manager.set_safe_finalizer(thing, id, 1)
        queue = ReleaseQueue("short", thread="current")
        parent = manager.register(object(), release=id, release_on=queue)
        child = manager.register(object(), release=id, parent=parent)
        parent.close()
        child.close()
        queue.drain()
def looping():
    async def main():
        queue = release_queue()
        while not stop:
            handle = manager.register(object(), release=id, release_on=queue)
            await run_leased(handle, id)
            await asyncio.to_thread(handle.close, timeout=20)
    asyncio.run(main())
threads = [threading.Thread(target=work) for work in (dropping, looping)]
for thread in threads:
    thread.start()
def child():
    queue = ReleaseQueue("child", thread="current")
    for place in (ANY_THREAD, BACKGROUND, queue):
        handle = manager.register(object(), release=id, release_on=place)
        assert handle.close(timeout=20), handle
    assert manager.stats().active_objects == 0, manager.stats()
    assert manager.close().ok
for _ in range(6):
    in_child(child)
stop = True
for thread in threads:
    thread.join()
say(manager.close().ok)
""",
        args=NO_FORK_WARNING,
        timeout=60,
    )
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert said == ["child ended 0"] * 6 + ["True"], done
    assert "Traceback" not in done.stderr, done.stderr


@FORK
def test_a_child_of_a_fork_during_a_collection_does_not_believe_that_it_collects() -> None:
    """Neither where another thread collected, which the child does not have, nor where the fork was made
    inside."""
    done = forking(
        """
    from lifecycle._core import runtime
    gc.disable()
    began, over = threading.Event(), threading.Event()

    class Dying:
        def __init__(self, action):
            self.action = action
            self.itself = self
        def __del__(self):
            self.action()

    def child():
        manager = SafetyManager()
        ok = not runtime.collecting and not runtime.in_collector() and not runtime.must_not_wait()
        ok = ok and manager.register(Native("child's"), release=Native.free).close(timeout=20)
        os._exit(0 if ok and manager.close().ok else 1)

    def fork():
        pid = os.fork()
        if pid == 0:
            child()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    Dying(lambda: (began.set(), over.wait(60)))
    collector = threading.Thread(target=gc.collect)
    collector.start()
    began.wait(60)
    say("on another thread", bool(runtime.collecting), fork())
    over.set()
    collector.join()
    Dying(lambda: say("in it", runtime.in_collector(), fork()))
    gc.collect()
    say("afterwards", runtime.in_collector(), bool(runtime.collecting))
    """
    )
    said = done.check().splitlines()
    assert [line for line in said if "child's" not in line] == [
        "on another thread True 0",
        "in it True 0",
        "afterwards False False",
    ], done
    assert len(said) == 5


@FORK
def test_ctrl_c_that_is_pending_as_a_program_forks_is_raised_in_it() -> None:
    """I7, I3: it strikes before the first line of our hooks, whose work is done all the same, and is neither
    lost nor doubled."""
    done = forking(
        """
    import ctypes
    interrupt = ctypes.CDLL(None)["raise"]
    manager = SafetyManager()
    handle = manager.register(Native("open"), release=Native.free)
    role = manager._maintenance._role
    import functools
    os.register_at_fork(before=functools.partial(interrupt, 2), after_in_parent=functools.partial(interrupt, 2))
    came = 0
    for _ in range(5):
        pid = 0
        try:
            pid = os.fork()
            if not pid:
                os._exit(0)
            time.sleep(0.01)
        except KeyboardInterrupt:
            came += 1
    say("interrupts", came >= 5)
    deadline = time.monotonic() + 20
    while role.locked() and time.monotonic() < deadline:
        time.sleep(0.01)
    say("the keeper counts", manager.stats().active_objects)
    """
    )
    said = done.check().splitlines()
    assert said == ["interrupts True", "the keeper counts 1", "released open"], done


@FORK
def test_a_policy_has_a_forked_child_keep_for_ever_what_it_inherits() -> None:
    """I4: the wrapper of such an object is destroyed at no moment of the child's end: one reference to it is never
    given back. In the parent nothing changes."""
    done = forking(
        """
    manager = SafetyManager()
    manager.policy("kept", fork="keep")
    natives = Native("kept"), Native("plain")
    def more():
        "How many more references the first has than the second."
        return sys.getrefcount(natives[0]) - sys.getrefcount(natives[1])
    handles = tuple(map(lambda native: manager.register(
        native, native.label, release=Native.free, release_on=ANY_THREAD), natives))
    pid = os.fork()
    if not pid:
        import lifecycle._core.release as release
        release.orphans.clear()     # which end with the interpreter, or before
        say("child", more())
        sys.exit(0)
    os.waitpid(pid, 0)
    say(*(handle.close(timeout=1) for handle in handles))
    say("parent", more())
    try:
        manager.policy("kept", fork="spoon")
    except RegistrationError as error:
        say(str(error))
    """
    )
    assert done.check().splitlines() == [
        "child 1",
        "released kept",
        "released plain",
        "True True",
        "parent 0",
        "policy(fork=) of type 'kept' takes 'forget' or 'keep', not 'spoon'",
    ], done
