"""CleanupGuard and SharedCleanupGuard: once, whoever ends them, and never in silence when nobody does."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import CleanupGuard, LifecycleError, RegistrationError, SharedCleanupGuard
from lifecycle.errors import CallbackError
from tests.core.adversary import STORM, Interrupt, at_once, each_interrupt, every_line, switching
from tests.guards.support import let_go
from tests.support import eventually, run_python


class Work:
    """What guards are to end: counts how often it was."""

    def __init__(self) -> None:
        self.done = 0
        self.threads: list[int] = []

    def end(self) -> None:
        self.done += 1
        self.threads.append(threading.get_ident())


@pytest.mark.parametrize(
    ("when", "raises", "runs"),
    [
        ("always", False, True),
        ("always", True, True),
        ("error", False, False),
        ("error", True, True),
        ("success", False, True),
        ("success", True, False),
    ],
)
def test_it_runs_as_the_block_ends(when: Any, raises: bool, runs: bool) -> None:
    work = Work()
    try:
        with CleanupGuard(work.end, when=when) as guard:
            assert guard.armed
            if raises:
                raise KeyError("body")
    except KeyError:
        assert raises
    assert work.done == runs
    assert not guard.armed
    assert not guard.close()
    assert not guard.defuse()


def test_closed_or_defused_it_has_done_its_work() -> None:
    one, two = Work(), Work()
    first, second = CleanupGuard(one.end, when="error"), CleanupGuard(two.end)
    assert first.close()
    assert second.defuse()
    assert (one.done, two.done) == (1, 0)
    assert "done" in repr(first)
    with pytest.raises(LifecycleError, match="has been run or defused"):
        with second:
            pass


def test_what_it_raises_comes_out_with_the_error_of_the_block_behind_it() -> None:
    def fail() -> None:
        raise OSError("cleanup")

    with pytest.raises(OSError, match="cleanup") as caught:
        with CleanupGuard(fail):
            raise KeyError("body")
    assert isinstance(caught.value.__context__, KeyError)
    empty: list[int] = []
    with pytest.raises(IndexError, match="pop from empty list"):
        CleanupGuard(empty.pop).close()


@pytest.mark.parametrize(("when", "runs"), [("always", 1), ("error", 1), ("success", 0)])
def test_dropped_it_runs_and_warns(when: Any, runs: int) -> None:
    work = Work()
    with pytest.warns(ResourceWarning, match=r"CleanupGuard \(made at test_guard.py:\d+\) was dropped"):
        CleanupGuard(work.end, when=when)
        gc.collect()
    assert work.done == runs


def test_dropped_in_a_cycle_it_runs_on_a_thread_of_its_own() -> None:
    work = Work()
    cycle: list[Any] = [CleanupGuard(work.end)]
    cycle.append(cycle)
    with pytest.warns(ResourceWarning):
        del cycle
        gc.collect()
        eventually(lambda: work.done)
    assert work.threads != [threading.get_ident()]


def test_a_warning_that_is_an_error_does_not_keep_it_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", seen.append)
    work = Work()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CleanupGuard(work.end)
        gc.collect()
    assert work.done == 1
    assert len(seen) == 1


@pytest.mark.parametrize("make", [CleanupGuard, SharedCleanupGuard])
def test_bad_input_is_refused_and_nothing_is_left(make: Callable[..., Any]) -> None:
    async def later() -> None:
        pass

    with pytest.raises(RegistrationError, match="must be callable"):
        make(7)
    with pytest.raises(CallbackError, match="coroutine"):
        make(later)
    with pytest.raises(CallbackError, match="its body has not run"):
        make(lambda: later()).close()


def test_another_when_is_refused() -> None:
    with pytest.raises(LifecycleError, match="always, error, success, not 'never'"):
        CleanupGuard(print, when="never")  # type: ignore[arg-type]


def test_it_runs_once_however_many_end_it() -> None:
    with switching():
        for _ in range(int(100 * STORM)):
            work = Work()
            guard = CleanupGuard(work.end)
            at_once(guard.close, guard.close, functools.partial(guard.__exit__, None, None, None))
            assert work.done == 1


def test_interrupts_neither_lose_nor_double_it(quiet: None) -> None:
    """Every point of our own code: what the interrupt kept from running runs when the guard goes."""
    for struck in each_interrupt(lambda: _guarded()):
        work = _guarded.work  # type: ignore[attr-defined]
        error, place = struck.error, struck.place
        assert error is None or isinstance(error, Interrupt)
        let_go(error)
        assert work.done <= 1
        assert work.done == 1 or not work.begun, place


def _guarded() -> None:
    work = Work()
    work.begun = False
    _guarded.work = work  # type: ignore[attr-defined]
    guard = CleanupGuard(work.end)
    work.begun = True
    with guard:
        pass


def test_the_collector_at_every_line_changes_nothing() -> None:
    work = Work()
    with every_line(lambda: gc.collect(1)) as struck:
        with CleanupGuard(work.end):
            pass
        shared = SharedCleanupGuard(work.end)
        with shared.share():
            shared.close()
    assert work.done == 2
    assert struck.strikes > 20


# -- shared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_last_share_runs_it(order: tuple[int, ...]) -> None:
    work = Work()
    shares = [SharedCleanupGuard(work.end)]
    shares += [shares[0].share(), shares[0].share()]
    for number, index in enumerate(order, 1):
        assert shares[index].armed
        assert shares[index].close() == (number == 3)
        assert not shares[index].close()
        assert work.done == (number == 3)
        assert shares[index].closed


def test_a_share_of_what_is_over_is_refused() -> None:
    work = Work()
    one = SharedCleanupGuard(work.end)
    two = one.share()
    one.close()
    with pytest.raises(LifecycleError, match="cannot be shared"):
        one.share()
    with pytest.raises(LifecycleError, match="was given back"):
        with one:
            pass
    assert work.done == 0
    assert two.defuse()
    with pytest.raises(LifecycleError, match="cannot be shared"):
        two.share()
    two.close()
    assert work.done == 0


def test_dropped_shares_warn_and_count() -> None:
    work = Work()
    one = SharedCleanupGuard(work.end)
    with pytest.warns(ResourceWarning, match="a share of a SharedCleanupGuard .* dropped"):
        one.share()
        gc.collect()
    assert work.done == 0
    with pytest.warns(ResourceWarning, match="it was the last"):
        del one
        gc.collect()
    assert work.done == 1


def test_sharing_and_closing_at_once_runs_it_once_and_leaves_it_to_somebody() -> None:
    with switching():
        for _ in range(int(100 * STORM)):
            work = Work()
            first = SharedCleanupGuard(work.end)
            made: list[SharedCleanupGuard] = []

            def share(first: SharedCleanupGuard = first, made: list[SharedCleanupGuard] = made) -> None:
                try:
                    made.append(first.share())
                except LifecycleError:
                    pass

            at_once(first.close, share, share)
            assert work.done == (not made)
            for guard in made:
                guard.close()
            assert work.done == 1


def test_interrupts_do_not_lose_a_shared_one(quiet: None) -> None:
    made: dict[str, Work] = {}

    def run() -> None:
        made["work"] = Work()
        one = SharedCleanupGuard(made["work"].end)
        made["begun"] = made["work"]
        two = one.share()
        with one:
            pass
        two.close()

    for struck in each_interrupt(run):
        let_go(struck.error)
        assert made["work"].done <= 1
        assert made["work"].done == 1 or "begun" not in made, struck.place
        made.clear()


# -- the process ---------------------------------------------------------------------------------------------


def test_a_forked_child_runs_nothing_of_its_parent() -> None:
    out = run_python(
        """
        import gc, os, sys, warnings
        warnings.simplefilter("ignore")
        from lifecycle import CleanupGuard, CleanupStack, SharedCleanupGuard
        guard = CleanupGuard(lambda: print("guard", flush=True))
        shared = SharedCleanupGuard(lambda: print("shared", flush=True))
        stack = CleanupStack()
        stack.callback(print, "stack", flush=True)
        dropped = [CleanupGuard(lambda: print("dropped", flush=True)), CleanupStack()]
        dropped[1].callback(print, "dropped stack", flush=True)
        pid = os.fork()
        if pid == 0:
            print("child:", guard.armed, shared.armed, len(stack), flush=True)
            guard.close(); shared.close(); dropped.clear()
            gc.collect()
            stack.callback(print, "the child's own", flush=True)
            stack.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print("parent:", flush=True)
        guard.close(); shared.close(); stack.close(); dropped.clear()
        """
    ).check()
    child, parent = out.split("parent:")
    assert child.split() == ["child:", "False", "False", "0", "the", "child's", "own"]
    assert sorted(parent.split("\n")) == sorted(
        ["", "guard", "shared", "stack", "dropped", "dropped stack", ""]
    )


def test_what_lives_at_interpreter_exit_runs() -> None:
    done = run_python(
        """
        from lifecycle import CleanupGuard, CleanupStack
        import sys
        guard = CleanupGuard(lambda: sys.stdout.write("guard\\n"))
        stack = CleanupStack()
        stack.callback(sys.stdout.write, "stack\\n")
        cycle = [CleanupGuard(lambda: sys.stdout.write("cycle\\n"))]
        cycle.append(cycle)
        """
    )
    assert sorted(done.check().split()) == ["cycle", "guard", "stack"]
    assert done.stderr == ""


def test_an_action_that_the_recursion_limit_kept_from_beginning_is_still_to_come() -> None:
    ran: list[int] = []

    def descend(depth: int, act: Callable[[], object]) -> object:
        return descend(depth - 1, act) if depth else act()

    def noted(number: int) -> Callable[[], None]:
        def action() -> None:
            ran[len(ran) :] = [number]

        return action

    depth = 500
    with contextlib.suppress(RecursionError):
        while True:
            descend(depth, ran.clear)
            depth += 1
    guards = [CleanupGuard(noted(number)) for number in range(60)]
    for near, guard in enumerate(guards):
        with contextlib.suppress(RecursionError):
            descend(depth - near, guard.close)
    for guard in guards:
        guard.close()
    assert sorted(ran) == list(range(60))


def test_guards_that_outlive_our_modules_run_as_the_interpreter_ends() -> None:
    """Without the GIL the program's module may be emptied after ours."""
    done = run_python(
        "from lifecycle import CleanupGuard, CleanupStack, SafetyManager, SharedCleanupGuard\n"
        "guard = CleanupGuard(lambda: print('guard', flush=True))\n"
        "shared = SharedCleanupGuard(lambda: print('shared', flush=True))\n"
        "stack = CleanupStack()\n"
        "stack.callback(lambda: print('first', flush=True))\n"
        "stack.callback(lambda: 1 // 0)\n"
        "not_run = CleanupGuard(lambda: print('success', flush=True), when='success')\n"
        "manager = SafetyManager()\n"
        "handle = manager.register([1], 'x', release=lambda _: None)\n",
        args=("-W", "ignore::ResourceWarning"),
    )
    assert sorted(done.stdout.split()) == ["first", "guard", "shared"]


def test_what_an_exit_hook_leaves_is_run_though_guards_are_loaded_behind_it() -> None:
    """The module is loaded when it is first asked for, and its exit hook has to run behind those before."""
    done = run_python(
        """
        import atexit, lifecycle

        @atexit.register
        def last():
            from lifecycle.guards import action
            # As a guard that is dropped at the recursion limit does, where no thread can be started.
            action.left[0:0] = [(print, ("ran",), "guard", None)]

        assert "lifecycle.guards" not in __import__("sys").modules
        lifecycle.CleanupGuard(print).defuse()
        """,
        args=("-W", "ignore::ResourceWarning"),
    )
    assert done.check().split() == ["ran"]
