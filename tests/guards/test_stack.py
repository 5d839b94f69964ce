"""CleanupStack: the verbs of ExitStack, every failure kept, nothing forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from lifecycle import ANY_THREAD, CleanupStack, LifecycleError, RegistrationError, SafetyManager
from lifecycle.errors import CallbackError, CleanupErrorGroup, CleanupPanicError
from tests.core.adversary import STORM, Interrupt, at_once, each_interrupt, every_line, switching
from tests.core.natives import Native, Panic
from tests.guards.support import let_go


class Manager:
    """A context manager that notes what it was told."""

    def __init__(self, log: list[Any], name: str, *, swallow: bool = False) -> None:
        self.log, self.name, self.swallow = log, name, swallow

    def __enter__(self) -> str:
        self.log.append(f"+{self.name}")
        return self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert (kind, trace) == (type(error) if error else None, error.__traceback__ if error else None)
        self.log.append(f"-{self.name}" if error is None else f"-{self.name}!{type(error).__name__}")
        return self.swallow


def fail(error: BaseException) -> None:
    raise error


def test_everything_is_undone_the_last_first() -> None:
    log: list[Any] = []
    with CleanupStack() as stack:
        assert stack.enter_context(Manager(log, "a")) == "a"
        assert stack.callback(log.append, "b") == log.append
        stack.push(Manager(log, "c"))

        @stack.callback
        def d() -> None:
            log.append("d")

        stack.push(lambda *details: log.append(details))
        assert len(stack) == 5
    assert log == ["+a", (None, None, None), "d", "-c", "b", "-a"]
    assert len(stack) == 0
    stack.callback(log.clear)
    stack.close()
    assert log == []


def test_callbacks_take_arguments() -> None:
    seen: list[Any] = []
    with CleanupStack() as stack:
        stack.callback(lambda *args, **kwargs: seen.append((args, kwargs)), 1, 2, fn=3, self=4)
    assert seen == [((1, 2), {"fn": 3, "self": 4})]


def test_the_exception_of_the_block_passes_unchanged() -> None:
    log: list[Any] = []
    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        with CleanupStack() as stack:
            stack.enter_context(Manager(log, "a"))
            raise error
    assert caught.value is error
    assert log == ["+a", "-a!KeyError"]


def test_a_context_manager_may_suppress_it_and_those_further_out_do_not_hear_of_it() -> None:
    log: list[Any] = []
    with CleanupStack() as stack:
        stack.enter_context(Manager(log, "out"))
        stack.enter_context(contextlib.suppress(KeyError))
        stack.enter_context(Manager(log, "in"))
        raise KeyError
    assert log == ["+out", "+in", "-in!KeyError", "-out"]


def test_every_failure_is_in_the_group_behind_that_of_the_block() -> None:
    log: list[Any] = []
    body, one, two = KeyError("body"), OSError("one"), ValueError("two")
    with pytest.raises(CleanupErrorGroup) as caught:
        with CleanupStack() as stack:
            stack.enter_context(Manager(log, "a"))
            stack.callback(fail, two)
            stack.callback(log.append, "ran")
            stack.callback(fail, one)
            raise body
    group = caught.value
    assert group.exceptions == (body, one, two)
    assert log == ["+a", "ran", "-a!CleanupErrorGroup"]
    assert isinstance(group, LifecycleError)
    assert isinstance(group, Exception)
    text = "".join(traceback.format_exception(type(group), group, group.__traceback__))
    for error in (body, one, two):
        assert repr(error.args[0])[1:-1] in text
    assert "in fail" in text


def test_a_single_failure_is_a_group_as_well() -> None:
    with pytest.raises(CleanupErrorGroup, match="OSError: alone") as caught:
        with CleanupStack() as stack:
            stack.callback(fail, OSError("alone"))
    assert len(caught.value.exceptions) == 1


def test_groups_are_split_as_the_language_splits_them() -> None:
    with pytest.raises(CleanupErrorGroup) as caught:
        with CleanupStack() as stack:
            for error in (OSError("a"), KeyError("b"), ValueError("c")):
                stack.callback(fail, error)
    match, rest = caught.value.split((OSError, KeyError))
    assert isinstance(match, CleanupErrorGroup)
    assert [str(error) for error in match.exceptions] == ["'b'", "a"]
    assert [str(error) for error in rest.exceptions] == ["c"]
    assert caught.value.subgroup(lambda error: isinstance(error, RuntimeError)) is None
    assert caught.value.subgroup(LookupError).__traceback__ is caught.value.__traceback__
    outer = CleanupErrorGroup("outer", [caught.value, OSError("d")])
    assert len(outer.subgroup(OSError).exceptions) == 2
    assert outer.subgroup(OSError).exceptions[0].exceptions[0].args == ("a",)


def test_a_manager_that_raises_what_it_was_told_has_not_failed() -> None:
    @contextlib.contextmanager
    def passes() -> Iterator[None]:
        try:
            yield
        finally:
            pass

    def again(kind: Any, error: BaseException, trace: Any) -> None:
        raise error

    body = KeyError("body")
    with pytest.raises(KeyError) as caught:
        with CleanupStack() as stack:
            stack.enter_context(passes())
            stack.push(again)
            raise body
    assert caught.value is body
    with pytest.raises(CleanupErrorGroup) as grouped:
        with CleanupStack() as stack:
            stack.push(again)
            stack.enter_context(passes())
            stack.callback(fail, OSError("one"))
    assert [type(error) for error in grouped.value.exceptions] == [OSError]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["body", "cleanup"])
def test_ctrl_c_is_raised_itself_when_all_have_run_and_loses_nothing(
    kind: type[BaseException], where: str
) -> None:
    log: list[Any] = []
    interrupt = kind("stop")
    earlier = RuntimeError("earlier")
    interrupt.__cause__ = earlier
    with pytest.raises(kind) as caught:
        with CleanupStack() as stack:
            stack.callback(log.append, "ran")
            stack.callback(fail, OSError("one"))
            stack.enter_context(Manager(log, "told"))
            if where == "cleanup":
                stack.callback(fail, interrupt)
            stack.callback(fail, OSError("two"))
            if where == "body":
                raise interrupt
    assert caught.value is interrupt
    assert log == ["+told", f"-told!{kind.__name__}", "ran"]
    group = interrupt.__cause__
    assert isinstance(group, CleanupErrorGroup)
    assert [str(error) for error in group.exceptions] == ["two", "one"]
    assert group.__cause__ is earlier


def test_a_cancelled_block_whose_cleanup_fails_fails() -> None:
    async def main() -> None:
        with CleanupStack() as stack:
            stack.callback(fail, OSError("one"))
            await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.ensure_future(main())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(CleanupErrorGroup) as caught:
            await task
        assert isinstance(caught.value.__context__, asyncio.CancelledError)
        assert [str(error) for error in caught.value.exceptions] == ["one"]

    asyncio.run(cancelled())
    with pytest.raises(asyncio.CancelledError) as caught:
        with CleanupStack() as stack:
            stack.callback(fail, OSError("one"))
            stack.callback(fail, asyncio.CancelledError())
    assert isinstance(caught.value.__cause__, CleanupErrorGroup)


def test_a_generator_that_is_closed_tells_of_its_failures() -> None:
    def generator() -> Iterator[int]:
        with CleanupStack() as stack:
            stack.callback(fail, OSError("one"))
            yield 1

    running = generator()
    next(running)
    with pytest.raises(CleanupErrorGroup, match="one"):
        running.close()


def test_a_panic_stands_in_the_group_as_an_exception() -> None:
    panic = Panic("rust")
    with pytest.raises(CleanupErrorGroup) as caught:
        with CleanupStack() as stack:
            stack.callback(fail, panic)
            stack.callback(fail, OSError("one"))
    one, two = caught.value.exceptions
    assert isinstance(one, OSError)
    assert isinstance(two, CleanupPanicError)
    assert two.__cause__ is panic


def test_pop_all_moves_everything_also_while_it_unwinds() -> None:
    log: list[Any] = []
    stack = CleanupStack()
    stack.callback(log.append, 1)
    stack.callback(log.append, 2)
    moved = stack.pop_all()
    stack.close()
    assert log == []
    moved.close()
    assert log == [2, 1]
    later: list[CleanupStack] = []
    with CleanupStack() as stack:
        stack.callback(log.append, 3)
        stack.callback(lambda: later.append(stack.pop_all()))
        stack.callback(log.append, 4)
    assert log == [2, 1, 4]
    later[0].close()
    assert log == [2, 1, 4, 3]


def test_a_cleanup_may_push_more() -> None:
    log: list[Any] = []
    with CleanupStack() as stack:
        stack.callback(lambda: stack.callback(log.append, "late"))
    assert log == ["late"]


def test_defused_it_does_nothing() -> None:
    log: list[Any] = []
    stack = CleanupStack()
    stack.callback(log.append, 1)
    stack.enter_context(Manager(log, "a"))
    assert stack.defuse() == 2
    assert stack.defuse() == 0
    stack.close()
    assert log == ["+a"]


def test_dropped_it_runs_and_warns() -> None:
    log: list[Any] = []
    with pytest.warns(ResourceWarning, match=r"CleanupStack \(made at test_stack.py:\d+\) .* 2 cleanup\(s\)"):
        stack = CleanupStack()
        stack.callback(log.append, 1)
        stack.callback(log.append, 2)
        del stack
        gc.collect()
    assert log == [2, 1]


def test_dropped_in_a_cycle_it_runs_on_a_thread_of_its_own() -> None:
    ran = threading.Event()
    threads: list[int] = []
    cycle: list[Any] = [CleanupStack()]
    cycle[0].callback(ran.set)
    cycle[0].callback(lambda: threads.append(threading.get_ident()))
    cycle.append(cycle)
    with pytest.warns(ResourceWarning):
        del cycle
        gc.collect()
        assert ran.wait(20)
    assert threads != [threading.get_ident()]


def test_an_enter_that_raises_leaves_nothing_behind() -> None:
    class Broken:
        def __enter__(self) -> None:
            raise OSError("enter")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("it was never entered")

    with CleanupStack() as stack:
        with pytest.raises(OSError, match="enter"):
            stack.enter_context(Broken())
        assert len(stack) == 0


def test_bad_input_is_refused_and_nothing_is_left() -> None:
    async def later() -> None:
        pass

    class Asynchronous:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    with CleanupStack() as stack:
        with pytest.raises(CallbackError, match=r"takes a context manager: 7 is none; callback"):
            stack.enter_context(7)  # type: ignore[arg-type]
        with pytest.raises(CallbackError, match="but an asynchronous one"):
            stack.enter_context(Asynchronous())  # type: ignore[arg-type]
        with pytest.raises(RegistrationError, match="must be callable"):
            stack.callback(7)  # type: ignore[arg-type]
        with pytest.raises(RegistrationError, match="must be callable"):
            stack.push(7)
        with pytest.raises(CallbackError, match="coroutine"):
            stack.callback(later)
        assert len(stack) == 0
    with pytest.raises(CleanupErrorGroup, match="its body has not run"):
        with CleanupStack() as stack:
            stack.callback(lambda: later())


def test_handles_go_well_with_it(manager: SafetyManager) -> None:
    natives = [Native(str(number)) for number in range(3)]
    with CleanupStack() as stack:
        for native in natives:
            handle = manager.register(native, "native", release=Native.free, release_on=ANY_THREAD)
            stack.enter_context(handle)
            with pytest.raises(LifecycleError):
                handle.view(0, 8)
        del handle
    assert [native.released for native in natives] == [1, 1, 1]


def test_two_threads_that_unwind_it_run_each_once() -> None:
    with switching():
        for _ in range(int(50 * STORM)):
            counts: list[int] = []
            stack = CleanupStack()
            for number in range(20):
                stack.callback(counts.append, number)
            at_once(stack.close, stack.close, functools.partial(stack.__exit__, None, None, None))
            assert sorted(counts) == list(range(20))


def test_an_interrupt_anywhere_leaves_nothing_undone_and_does_nothing_twice(quiet: None) -> None:
    """At every point of our own code. Only what struck before the first statement of a method of ours, or
    twice, is left for the end of the stack; everything is run by then."""
    log: list[str] = []
    at_once_after = 0

    def run() -> None:
        with CleanupStack() as stack:
            log.append("+a")
            stack.callback(log.append, "-a")
            stack.enter_context(Manager(log, "b"))
            stack.push(Manager(log, "c"))
            stack.callback(log.append, "-d")
            log.append("body")

    for struck in each_interrupt(run):
        assert struck.error is None or isinstance(struck.error, Interrupt), struck.error
        place, on_entry = struck.place, struck.on_entry
        unwound = "body" in log
        log[:] = [
            entry.partition("!")[0] for entry in log
        ]  # whether they are told of the interrupt is another matter
        if unwound and not on_entry:
            at_once_after += 1
            assert log == ["+a", "+b", "body", "-d", "-c", "-b", "-a"], place
        let_go(struck.error)
        log[:] = [entry.partition("!")[0] for entry in log]
        assert ("+b" in log) == ("-b" in log), place
        assert len(set(log)) == len(log), (place, log)
        if unwound:
            assert sorted(log) == sorted(["+a", "+b", "body", "-a", "-b", "-c", "-d"]), place
        log.clear()
    assert at_once_after > 5


def test_an_interrupt_while_failures_are_collected_loses_no_cleanup(quiet: None) -> None:
    log: list[str] = []

    def run() -> None:
        with contextlib.suppress(CleanupErrorGroup):
            with CleanupStack() as stack:
                stack.callback(log.append, "a")
                stack.enter_context(Manager(log, "b"))
                stack.callback(fail, OSError("c"))
                stack.callback(log.append, "d")

    for struck in each_interrupt(run):
        assert struck.error is None or isinstance(struck.error, Interrupt)
        entered, place = "+b" in log, struck.place
        let_go(struck.error)
        assert len(set(log)) == len(log)
        if entered:
            assert any(entry.startswith("-b") for entry in log), place
        log.clear()


def test_the_collector_at_every_line_changes_nothing() -> None:
    log: list[str] = []
    with every_line(lambda: gc.collect(1)) as struck:
        with CleanupStack() as stack:
            stack.callback(log.append, "a")
            stack.enter_context(Manager(log, "b"))
        with pytest.raises(CleanupErrorGroup):
            with CleanupStack() as stack:
                stack.enter_context(Manager(log, "c"))
                stack.callback(fail, OSError())
    assert log == ["+b", "-b", "a", "+c", "-c!CleanupErrorGroup"]
    assert struck.strikes > 30


def test_a_kept_traceback_keeps_nothing_alive(manager: SafetyManager) -> None:
    native = Native()
    handle = manager.register(native, "native", release=Native.free, release_on=ANY_THREAD)
    kept: list[BaseException] = []

    def use(lease: Any) -> None:
        try:
            with CleanupStack() as stack:
                stack.enter_context(lease)
                stack.callback(fail, OSError("one"))
        except CleanupErrorGroup as error:
            kept.append(error)

    lease = handle.lease()
    use(lease)
    del lease
    assert handle.close()
    assert kept


if sys.version_info >= (3, 11):

    def test_it_is_an_exception_group() -> None:
        assert issubclass(CleanupErrorGroup, ExceptionGroup)


def test_the_text_says_how_many_more_there_are() -> None:
    def failing(number: int) -> Callable[[], None]:
        return lambda: fail(OSError(f"number {number}"))

    with pytest.raises(CleanupErrorGroup) as caught:
        with CleanupStack() as stack:
            for number in range(5):
                stack.callback(failing(number))
    assert "number 4; OSError: number 3; OSError: number 2; and 2 more (5 sub-exceptions)" in str(
        caught.value
    )
