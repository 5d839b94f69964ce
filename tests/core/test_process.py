"""Exit, fork, subinterpreters and import, in real processes of their own whose stderr is checked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from lifecycle._core.runtime import free_threaded as FREE_THREADED
from tests import support

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
NO_FORK_WARNING = ("-W", "ignore::DeprecationWarning")  # 3.12 warns of every fork of a process with threads

PRELUDE = """
import atexit, gc, os, signal, sys, threading, time, weakref
from lifecycle import *
from lifecycle.distribution import *
from lifecycle.errors import *
from lifecycle.fences import *

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Native:
    def __init__(self, label="native"):
        self.label = label
    def free(self):
        say("released", self.label)
"""


def run(code: str, **more: object) -> support.Finished:
    """Run `code` after the prelude."""
    return support.run_python(PRELUDE + textwrap.dedent(code), **more)  # type: ignore[arg-type]


def quiet(code: str, *, allowed: tuple[str, ...] = (), **more: object) -> list[str]:
    """Run `code`; what it said, having seen that it ended with 0 and complained of nothing but `allowed`."""
    done = run(code, **more)
    done.check()
    complaints = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not any(word in line for word in allowed)
    ]
    assert complaints == [], done.stderr
    return done.stdout.splitlines()


def forking(code: str) -> support.Finished:
    """Run `code`, whose forked children end as programs do: `run_python`'s watchdog thread is not there to be
    ended in a child, and faulthandler would wait for it."""
    done = subprocess.run(
        [sys.executable, *NO_FORK_WARNING, "-c", PRELUDE + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return support.Finished(done.returncode, done.stdout, done.stderr)


# -- import --------------------------------------------------------------------------------------------------


def test_importing_starts_no_thread_and_opens_nothing() -> None:
    assert quiet(
        "say(threading.active_count(), len(SafetyManager().objects()), threading.active_count())"
    ) == ["1 0 1"]


def test_a_subinterpreter_is_refused_with_the_reason() -> None:
    code = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    inner = '''
    import sys
    sys.path[:0] = {path!r}
    try:
        import lifecycle
    except ImportError as error:
        import os
        os.write(1, str(error).encode())
    else:
        import os
        os.write(1, b"imported")
    '''.format(path=sys.path)
    import textwrap
    id = interpreters.create()
    problem = interpreters.run_string(id, textwrap.dedent(inner))
    if problem:
        say(problem)
    interpreters.destroy(id)
    """
    done = run(code)
    if (
        "does not support loading in subinterpreters" not in done.stdout
    ):  # another module may refuse before ours does
        assert "lifecycle cannot run in a subinterpreter" in done.check()
        assert "main interpreter" in done.stdout


# -- exit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["BACKGROUND", "ANY_THREAD", "ReleaseQueue('gl', thread='current')"])
def test_what_is_open_at_exit_is_released_newest_first(place: str) -> None:
    """I3."""
    said = quiet(f"""
    manager = SafetyManager()
    place = {place}
    handles = [manager.register(Native(n), release=Native.free, release_on=place) for n in range(5)]
    child = manager.register(Native("child"), release=Native.free, release_on=place, parent=handles[2])
    say("end")
    """)
    if FREE_THREADED and said.index("released 2") > said.index(
        "released child"
    ):  # there it may die a little later
        said.remove("released 2")
        said.insert(4, "released 2")
    assert said == [
        "end",
        "released child",
        *(f"released {n}" for n in (4, 3, 2, 1, 0)),
    ]  # 2, the parent, in its turn


def test_exit_with_what_is_kept_and_with_safe_finalizers() -> None:
    """I3: `weakref.finalize`'s own exit pass comes after ours and finds nothing to do."""
    said = quiet("""
    class Thing: pass
    thing = Thing()
    foreign = weakref.finalize(thing, say, "finalize")
    manager = SafetyManager()
    manager.register(Native("kept"), release=Native.free, keep=True)
    manager.set_safe_finalizer(thing, say, "safe finalizer")
    weakref.finalize(manager, say, "manager gone")
    say("end")
    """)
    assert said[0] == "end"
    assert sorted(said[1:]) == sorted(["safe finalizer", "released kept", "finalize", "manager gone"])
    assert said.index("released kept") < said.index("finalize")


def test_several_managers_at_exit_the_latest_first() -> None:
    said = quiet("""
    managers = [SafetyManager(name=str(n)) for n in range(3)]
    handles = [m.register(Native(m.name), release=Native.free) for m in managers]
    """)
    assert said == ["released 2", "released 1", "released 0"]


def test_a_closed_manager_does_nothing_at_exit() -> None:
    assert quiet("""
    with SafetyManager() as manager:
        manager.register(Native(), release=Native.free, keep=True)
    say("end")
    """) == ["released native", "end"]


@pytest.mark.parametrize(
    "error", ["ValueError('no')", "SystemExit(5)", "KeyboardInterrupt()", "GeneratorExit()", "Panic('rust')"]
)
def test_a_release_that_raises_at_exit_stops_nothing(error: str) -> None:
    """I6: all others are released, the exit code stays 0, and one is told."""
    done = run(f"""
    class Panic(BaseException): pass
    def bad(native):
        raise {error}
    manager = SafetyManager()
    handles = []
    for place in (BACKGROUND, ANY_THREAD, ReleaseQueue("gl", thread="current")):
        handles.append(manager.register(Native("before"), release=Native.free, release_on=place))
        handles.append(manager.register(Native(), release=bad, release_on=place))
        handles.append(manager.register(Native("after"), release=Native.free, release_on=place))
    """)
    assert done.check().splitlines().count("released before") == 3, done
    assert done.stdout.splitlines().count("released after") == 3, done
    assert "lifecycle.failed" in done.stdout + done.stderr
    assert error.split("(")[0] in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["BACKGROUND", "ANY_THREAD"])
def test_a_release_that_hangs_at_exit_costs_its_deadline_and_no_more(place: str) -> None:
    """I6."""
    done = run(
        f"""
    began = time.monotonic()
    manager = SafetyManager(SafetyConfig(finalizer_timeout=0.2, shutdown_timeout=8))
    atexit.register(lambda: None)
    handles = [manager.register(Native("before"), release=Native.free, release_on={place}),
               manager.register(Native(), release=lambda native: time.sleep(60), release_on={place}),
               manager.register(Native("after"), release=Native.free, release_on={place})]
    """,
        timeout=20,
    )
    assert sorted(line for line in done.check().splitlines() if line.startswith("released")) == [
        "released after",
        "released before",
    ]
    assert "lifecycle.stuck" in done.stdout + done.stderr


def test_hanging_releases_at_exit_end_within_the_budget() -> None:
    done = run(
        """
    manager = SafetyManager(SafetyConfig(finalizer_timeout=30, shutdown_timeout=0.5))
    handles = [manager.register(Native(), release=lambda native: time.sleep(60)) for _ in range(3)]
    """,
        timeout=20,
    )
    assert done.rc == 0, done


def test_a_daemon_thread_in_the_middle_of_a_lease_at_exit() -> None:
    """I2: what it uses is not freed under it."""
    done = run(
        """
    manager = SafetyManager(SafetyConfig(shutdown_timeout=2))
    native = manager.register(Native("held"), release=Native.free)
    other = manager.register(Native("other"), release=Native.free)
    entered = threading.Event()
    def hold():
        with native.lease() as held:
            entered.set()
            while True:
                held.label
    threading.Thread(target=hold, daemon=True).start()
    entered.wait()
    """,
        timeout=20,
    )
    assert done.check().splitlines() == ["released other"], done
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr


def test_daemon_threads_that_register_and_close_all_the_time_at_exit() -> None:
    """I5."""
    done = run(
        """
    manager = SafetyManager()
    ready = threading.Barrier(4)
    def work():
        ready.wait()
        while True:
            try:
                with manager.register(object(), release=id) as handle:
                    with handle.lease():
                        pass
            except LifecycleError:
                pass
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    ready.wait()
    time.sleep(0.1)
    """,
        timeout=25,
    )
    assert done.rc == 0, done
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr


def test_threads_that_are_not_daemons_are_waited_for_first() -> None:
    said = quiet("""
    manager = SafetyManager()
    handle = manager.register(Native(), release=Native.free)
    def work():
        time.sleep(0.2)
        with handle.lease() as native:
            say("used", native.label)
    threading.Thread(target=work).start()
    """)
    assert said == ["used native", "released native"]


def test_using_the_manager_in_later_exit_hooks_is_refused_not_crashed() -> None:
    """I9."""
    said = quiet("""
    def late():
        try:
            manager.register(Native("late"), release=Native.free)
        except ClosedError as error:
            say("refused:", error)
        say(handle.state, manager.stats().released, manager.closed)
    atexit.register(late)
    manager = SafetyManager(name="gone")
    handle = manager.register(Native("open"), release=Native.free)
    """)
    assert said[0] == "released open"
    assert said[1] == "released late"
    assert "manager 'gone' is closed" in said[2]
    assert said[3] == "released 2 True"


def test_a_manager_made_in_an_exit_hook_works() -> None:
    """Also where the interpreter starts no thread any more (3.12): nothing is lost."""
    said = quiet("""
    def late():
        with SafetyManager(name="late") as manager:
            handle = manager.register(Native("late"), release=Native.free)
            inline = manager.register(Native("inline"), release=Native.free, release_on=ANY_THREAD)
            say(inline.close(), handle.close(timeout=1) or manager.closed)
    atexit.register(late)
    """)
    assert sorted(line for line in said if line.startswith("released")) == [
        "released inline",
        "released late",
    ]


def test_sys_exit_and_an_uncaught_exception_release_as_well() -> None:
    for ending, code in (("sys.exit(3)", 3), ("raise ValueError('mine')", 1)):
        done = run(f"""
        manager = SafetyManager()
        handle = manager.register(Native(), release=Native.free)
        {ending}
        """)
        assert done.rc == code
        assert done.stdout.splitlines() == ["released native"]


def test_ctrl_c_in_a_lease_releases_as_well() -> None:
    done = run("""
    import signal
    manager = SafetyManager()
    handle = manager.register(Native(), release=Native.free)
    with handle.lease():
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)
    """)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout.splitlines() == ["released native"]


def test_a_view_alive_at_exit_crashes_nothing() -> None:
    """I2: module globals go after us."""
    said = quiet(
        """
    import mmap, ctypes
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    manager = SafetyManager(SafetyConfig(shutdown_timeout=1))
    handle = manager.register(Native("mapped"), release=Native.free)
    view = handle.view(address, 4096)
    class Reader:
        def __del__(self):
            say("read", bytes(self.view[:1]))
    reader = Reader()
    reader.view = view
    reader.me = reader
    """,
        allowed=("lifecycle.leak", "lifecycle.shutdown"),
    )
    assert "released mapped" not in said[:-1]  # not before the reader read


def test_leaks_at_exit_are_said_where_they_were_made() -> None:
    done = run(
        """
    manager = SafetyManager()
    def forget():
        manager.register(Native("forgotten"), release=Native.free)
    forget()
    """,
        args=("-W", "always::ResourceWarning"),
    )
    assert done.check().splitlines() == ["released forgotten"] or "lifecycle.leak" in done.stdout
    assert "was dropped without close(); it has been released" in done.stderr
    assert "<string>:" in done.stderr


def test_warnings_as_errors_break_nothing() -> None:
    """I6: a leak report that raises ends neither the counting nor anything else."""
    done = run(
        """
    manager = SafetyManager()
    for n in range(3):
        manager.register(Native(n), release=Native.free, release_on=ANY_THREAD)
        time.sleep(0.1)
    with manager.register(Native("closed"), release=Native.free):
        pass
    say("leaks", manager.stats().leaks, manager.health().keeper_alive)
    """,
        args=("-W", "error"),
    )
    assert "leaks 3 True" in done.check()
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("released")) == [
        "released 0",
        "released 1",
        "released 2",
        "released closed",
    ]


def test_a_blocked_stderr_stops_nothing() -> None:
    """I5, I6: whoever reads the log has stopped; counts, deadlines and releases go on."""
    done = run(
        """
    import structlog
    read, write = os.pipe()
    os.dup2(write, 2)
    os.set_blocking(2, True)
    structlog.reset_defaults()
    manager = SafetyManager(SafetyConfig(finalizer_timeout=0.2, shutdown_timeout=2))
    def bad(label):
        raise ValueError("x" * 2000)
    for n in range(200):
        manager.register(str(n), release=bad, release_on=ANY_THREAD).close()
        manager.register(str(n), release=str, release_on=ANY_THREAD)
    hanging = manager.register("hanging", release=lambda label: time.sleep(60))
    say(hanging.close(), hanging.state)
    figures = manager.stats()
    say(figures.failed, figures.stuck, figures.total_objects)
    manager.register(Native("last"), release=Native.free).close()
    manager.close()
    say("end")
    os._exit(0)
    """,
        timeout=25,
    )
    assert done.stdout.splitlines() == ["False stuck", "200 1 401", "released last", "end"], done


# -- fork ----------------------------------------------------------------------------------------------------

CHILD = """
def in_child(body):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    say("child ended", os.waitstatus_to_exitcode(status))
"""


@FORK
def test_a_forked_child_tells_of_all_that_it_inherited_in_one_line() -> None:
    done = forking(
        CHILD
        + """
manager = SafetyManager()
handles = [manager.register(Native(str(n)), f"type {n % 2}", release=Native.free) for n in range(2001)]

def child():
    assert manager.stats().orphaned == 2001
    manager.register(Native("own"), release=Native.free).close()
    manager.close()      # its observers are told before it returns

in_child(child)
os._exit(0)
"""
    )
    lines = [line for line in done.stderr.splitlines() if "lifecycle.orphaned" in line]
    assert len(lines) == 1, done.stderr[:2000]
    assert "2001" in lines[0]
    assert "1001 of type type 0, 1000 of type type 1" in lines[0]


@FORK
def test_a_forked_child_releases_nothing_of_its_parents() -> None:
    """I4: doors are shut, records ORPHANED, and saying so names the reason."""
    said = quiet(
        CHILD
        + """
manager = SafetyManager(name="inherited")
queue = ReleaseQueue("gl", thread="current")
handles = [manager.register(Native(n), release=Native.free, release_on=place)
           for n, place in enumerate((BACKGROUND, ANY_THREAD, queue))]
manager.register(Native("kept"), release=Native.free, keep=True)
lease = handles[0].lease()
class Thing: pass
thing = Thing()
manager.set_safe_finalizer(thing, say, "safe finalizer ran")
dropped = manager.register(Native("dropped later"), release=Native.free)

def child():
    global dropped, thing
    say([str(handle.state) for handle in handles], [handle.valid for handle in handles])
    try:
        handles[1].lease()
    except ClosedAccessError as error:
        say(error)
    say([handle.close() for handle in handles], manager.unregister(handles[0]))
    with lease as held:
        say("held", held.label)
    del dropped, thing
    gc.collect()
    queue.drain()
    figures = manager.stats()
    say(figures.orphaned, figures.active_objects, figures.released)
    manager.close()
    time.sleep(0.2)

in_child(child)
say("parent", [str(handle.state) for handle in handles], manager.stats().orphaned)
lease.close()
say(all(handle.close() for handle in handles))
del dropped
manager.close()
""",
        args=NO_FORK_WARNING,
        allowed=("lifecycle.orphaned", "lifecycle.leak", "ResourceWarning", "warnings.warn", "hook("),
    )
    said = [line for line in said if "lifecycle." not in line]
    ended = said.index("child ended 0")
    child, parent = said[:ended], said[ended + 1 :]
    assert child[0] == "['orphaned', 'orphaned', 'orphaned'] [False, False, False]"
    assert "belongs to the parent process" in child[1]
    assert "belongs to the parent process" in child[1]
    assert child[2] == "[False, False, False] False"
    assert child[3] == "held 0"
    assert child[4] == "6 0 0"
    assert len(child) == 5
    assert parent[0] == "parent ['valid', 'valid', 'valid'] 0"
    assert sorted(parent[1:]) == sorted(
        [
            "released 0",
            "released 1",
            "released 2",
            "True",
            "released dropped later",
            "safe finalizer ran",
            "released kept",
        ]
    )


@FORK
def test_a_forked_childs_own_objects_work() -> None:
    """I3: with threads, locks and tables of its own, in the inherited manager and in a new one."""
    said = quiet(
        CHILD
        + """
manager = SafetyManager(SafetyConfig(finalizer_timeout=0.2), name="inherited")
manager.policy("limited", max_live=2)
held = [manager.register(Native(f"parent {n}"), "limited", native=n, release=Native.free) for n in range(2)]
queue = ReleaseQueue("gl", thread="current")

def child():
    inline = manager.register(Native("inline"), "limited", native=0, release=Native.free, release_on=ANY_THREAD)
    say(inline.close())
    timed = manager.register(Native("timed"), "limited", native=1, release=Native.free)
    say(timed.close())
    queued = manager.register(Native("queued"), release=Native.free, release_on=queue)
    say(queued.close())
    stuck = manager.register(Native("stuck"), release=lambda native: time.sleep(60))
    say(stuck.close(), stuck.state)
    calls = []
    def busy(native):
        calls.append(1)
        if len(calls) < 3:
            raise NotReleased("busy")
    say(manager.register(Native("busy"), release=busy).close(timeout=5), len(calls))
    figures = manager.stats()
    say(figures.orphaned, figures.released, figures.stuck, figures.active_objects)
    with SafetyManager(name="new") as new:
        new.register(Native("new"), release=Native.free, keep=True)
    say(manager.close().released)

in_child(child)
say(all(handle.close() for handle in held))
""",
        args=NO_FORK_WARNING,
        allowed=("lifecycle.",),
    )
    said = [line for line in said if "lifecycle." not in line]
    assert said == [
        "released inline",
        "True",
        "released timed",
        "True",
        "released queued",
        "True",
        "False stuck",
        "True 3",
        "2 4 1 0",
        "released new",
        "0",
        "child ended 0",
        "released parent 0",
        "released parent 1",
        "True",
    ]


@FORK
def test_a_forked_child_that_ends_normally_releases_its_own_and_no_more() -> None:
    """I4: through its own exit hooks."""
    done = forking(
        """
    manager = SafetyManager()
    mine = manager.register(Native("parent's"), release=Native.free)
    pid = os.fork()
    if pid == 0:
        theirs = manager.register(Native("child's"), release=Native.free)
        sys.exit(7)
    _, status = os.waitpid(pid, 0)
    say("child ended", os.waitstatus_to_exitcode(status))
    """
    )
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert said == ["released child's", "child ended 7", "released parent's"], done
    assert "Traceback" not in done.stderr


@FORK
def test_the_python_objects_of_the_parent_do_not_die_in_the_child() -> None:
    """I4: a wrapper that frees its native in its own deallocation would free the parent's."""
    said = quiet(
        CHILD
        + """
class Wrapper:
    def __init__(self, pid):
        self.pid = pid
    def __del__(self):
        say("died in its own process" if os.getpid() == self.pid else "died in the child")

manager = SafetyManager()
handle = manager.register(Wrapper(os.getpid()), release=lambda wrapper: None, release_on=ANY_THREAD)

def child():
    handle.close()
    manager.stats()
    gc.collect()
    manager.close()

in_child(child)
handle.close()
""",
        args=NO_FORK_WARNING,
        allowed=("lifecycle.",),
    )
    said = [line for line in said if "lifecycle." not in line]
    assert said == ["child ended 0", "died in its own process"]


@FORK
def test_a_fork_while_another_thread_holds_a_lock_of_ours() -> None:
    """I5: that thread is not in the child, and will never let go."""
    said = quiet(
        CHILD
        + """
manager = SafetyManager()
manager.policy("limited", max_live=1)
parents = manager.register(Native("parent's"), "limited", release=Native.free)
held, go_on = threading.Event(), threading.Event()

def hold():
    with manager._registry.kinds["limited"].budget, manager._maintenance._role:
        held.set()
        go_on.wait()

holder = threading.Thread(target=hold)
holder.start()
held.wait()

def child():
    handle = manager.register(Native("child's"), "limited", release=Native.free)
    say(handle.close())
    say(manager.stats().released)

in_child(child)
go_on.set()
holder.join()
parents.close()
""",
        args=NO_FORK_WARNING,
        allowed=("lifecycle.orphaned",),
    )
    assert said == ["released child's", "True", "1", "child ended 0", "released parent's"]


@FORK
def test_forks_while_other_threads_are_busy() -> None:
    """I5: whatever lock or table another thread was at when the fork struck."""
    done = run(
        CHILD
        + """
manager = SafetyManager(SafetyConfig(finalizer_timeout=5), name="busy")
manager.policy("limited", max_live=1000)
manager.add_observer(lambda event: None)
stop = False
def work(place):
    while not stop:
        handle = manager.register(object(), "limited", release=id, release_on=place)
        handle.share().close(timeout=0)
        handle.close(timeout=0)
        manager.stats()
threads = [threading.Thread(target=work, args=(place,)) for place in (ANY_THREAD, BACKGROUND)]
for thread in threads:
    thread.start()

def child():
    before = manager.stats().released
    for place in (ANY_THREAD, BACKGROUND):
        handle = manager.register(object(), "limited", release=id, release_on=place)
        assert handle.close(timeout=10), handle
    assert manager.stats().released == before + 2, (manager.stats().released, before)
    assert manager.stats().active_objects == 0, manager.stats()

for _ in range(15):
    in_child(child)
stop = True
for thread in threads:
    thread.join()
""",
        args=NO_FORK_WARNING,
        timeout=50,
    )
    said = [line for line in done.check().splitlines() if line.startswith("child")]
    assert said == ["child ended 0"] * 15, done


@FORK
@pytest.mark.skipif(
    "fork" not in __import__("multiprocessing").get_all_start_methods(), reason="no fork start method"
)
def test_multiprocessing_with_fork() -> None:
    """I4: pools and processes that inherit a manager."""
    done = forking(
        """
    import multiprocessing
    manager = SafetyManager()
    handle = manager.register(Native("parent's"), release=Native.free)
    def work(n):
        with manager.register(Native(f"job {n}"), release=Native.free) as own:
            return manager.safe_access(own, lambda native: native.label), str(handle.state)
    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            results = pool.map(work, range(6))
            pool.close()
            pool.join()
        say(sorted(results) == [(f"job {n}", "orphaned") for n in range(6)])
        process = context.Process(target=work, args=(9,))
        process.start()
        process.join()
        say("process", process.exitcode, handle.state)
    """
    )
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert sorted(said) == sorted(
        [
            *(f"released job {n}" for n in (0, 1, 2, 3, 4, 5, 9)),
            "True",
            "process 0 valid",
            "released parent's",
        ]
    ), done
    assert "Traceback" not in done.stderr


@FORK
def test_a_fork_inside_a_lease_and_inside_a_release() -> None:
    """I3, I4: the child goes on where it was, and releases nothing."""
    done = forking(
        """
    manager = SafetyManager()
    def fork_and_free(native):
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        _, status = os.waitpid(pid, 0)
        say("child ended", os.waitstatus_to_exitcode(status))
        native.free()
    with manager.register(Native("first"), release=fork_and_free, release_on=ANY_THREAD) as handle:
        with handle.lease() as native:
            pid = os.fork()
            if pid == 0:
                say("in child", native.label)
        if pid == 0:
            say(handle.state)
    if pid == 0:
        say(handle.close())
        sys.exit(0)
    os.waitpid(pid, 0)
    say("parent", handle.state)
    """
    )
    said = [line for line in done.check().splitlines() if "lifecycle." not in line]
    assert sorted(said) == sorted(
        ["in child first", "orphaned", "False", "child ended 3", "released first", "parent released"]
    ), done


def test_spawned_children_share_nothing() -> None:
    done = run(
        """
    import subprocess
    manager = SafetyManager()
    handle = manager.register(Native("mine"), release=Native.free)
    subprocess.run([sys.executable, "-c", "import lifecycle; m = lifecycle.SafetyManager(); m.register([], release=len)"], check=True)
    say("spawned", handle.state)
    """,
    )
    assert done.check().splitlines() == ["spawned valid", "released mine"]
