"""The panic boundary: what passes, what poisons, and who is told."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    LifecycleError,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import CallbackError, ConfigError, LeaseEndedError
from tests.core.natives import Native, Panic
from tests.support import eventually


def registered(manager: SafetyManager) -> tuple[Native, Handle[Native]]:
    native = Native("it")
    return native, manager.register(native, "native", release=Native.free, release_on=ANY_THREAD)


def raising(error: BaseException) -> Any:
    def fn(native: Native) -> None:
        raise error

    return fn


def call(manager: SafetyManager, target: Any, error: BaseException, **more: Any) -> None:
    manager.safe_access(target, raising(error), **more)


def block(manager: SafetyManager, target: Any, error: BaseException, **more: Any) -> None:
    with manager.safe_access(target, **more):
        raise error


both = pytest.mark.parametrize("access", [call, block], ids=["call", "block"])


def test_it_returns_what_the_function_returns(manager: SafetyManager) -> None:
    native, handle = registered(manager)
    with handle:
        assert manager.safe_access(handle, lambda held, *more: (held, more), 1, 2) == (native, (1, 2))
        assert manager.safe_access(handle.id, Native.use) == "it"
        with manager.safe_access(handle) as held:
            assert held is native
    assert native.errors == []


def test_it_takes_what_has_a_handle(manager: SafetyManager) -> None:
    class Frame:
        def __init__(self, handle: Handle[Native]) -> None:
            self.handle = handle

    _, handle = registered(manager)
    frame = Frame(handle)
    assert manager.safe_access(frame, Native.use) == "it"
    with manager.safe_access(frame) as held:
        held.use()
    assert manager.is_valid(frame)
    handle.close()
    with pytest.raises(AccessRefusedError):
        manager.safe_access(frame, Native.use)


@both
def test_an_undeclared_exception_is_a_panic(manager: SafetyManager, access: Any) -> None:
    """I1, I6: the object is shut, others are not, and the message says how to declare the error."""
    native, handle = registered(manager)
    other, other_handle = registered(manager)
    error = ValueError("odd stride")
    with pytest.raises(AccessPanicError, match="panic during object access: ValueError: odd stride") as panic:
        access(manager, handle, error)
    message = str(panic.value)
    assert f"native (object {handle.id})" in message
    assert "errors=(ValueError,)" in message
    assert "policy('native'" in message
    assert panic.value.__cause__ is error
    assert not handle.valid
    assert native.released == 1
    with pytest.raises(AccessRefusedError, match=f"object {handle.id}.*panic .*ValueError: odd stride"):
        handle.lease()
    assert handle.close()
    assert native.released == 1
    assert manager.safe_access(other_handle, Native.use) == "it"
    other_handle.close()
    figures = manager.stats()
    assert (figures.panics, figures.errors) == (1, 0)
    assert figures.types["native"].closed["panic"] == 1
    assert figures.types["native"].panics == 1


@both
def test_a_base_exception_of_an_extensions_own_is_a_panic(manager: SafetyManager, access: Any) -> None:
    native, handle = registered(manager)
    with pytest.raises(AccessPanicError, match="Panic: rust"):
        access(manager, handle, Panic("rust"))
    assert native.released == 1


@both
def test_an_error_without_a_text_of_its_own_is_a_panic_like_any(manager: SafetyManager, access: Any) -> None:
    """I6: `str(error)` raises."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    native, handle = registered(manager)
    with pytest.raises(AccessPanicError, match="Odd"):
        access(manager, handle, Odd())
    assert native.released == 1
    assert manager.stats().panics == 1


@both
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()],
    ids=lambda e: type(e).__name__,
)
def test_control_flow_passes_and_poisons_nothing(
    manager: SafetyManager, access: Any, error: BaseException
) -> None:
    native, handle = registered(manager)
    with pytest.raises(type(error)) as passed:
        access(manager, handle, error)
    assert passed.value is error
    assert handle.valid
    assert (manager.stats().panics, manager.stats().errors) == (0, 0)
    handle.close()
    assert native.released == 1


@both
@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of 3.11")
def test_a_group_is_what_is_in_it(manager: SafetyManager, access: Any) -> None:
    """Task groups raise one also of a single exception."""
    _, handle = registered(manager)
    of: Any = BaseExceptionGroup  # type: ignore[name-defined, unused-ignore]
    stop, wrong, odd = asyncio.CancelledError(), KeyError("k"), ValueError("v")
    for group, errors in (
        (of("", [KeyboardInterrupt()]), ()),
        (of("", [stop, of("", [GeneratorExit()])]), ()),
        (of("", [wrong]), KeyError),
        (of("", [wrong, of("", [stop, odd])]), (KeyError, ValueError)),
    ):
        with pytest.raises(of) as passed:
            access(manager, handle, group, errors=errors)
        assert passed.value is group
        assert handle.valid
    with pytest.raises(AccessPanicError, match=r"errors=\(KeyError, ValueError,\)"):
        access(manager, handle, of("", [wrong, stop, odd]), errors=KeyError)
    assert not handle.valid


def test_sys_exit_passes(manager: SafetyManager) -> None:
    _, handle = registered(manager)
    with pytest.raises(SystemExit):
        manager.safe_access(handle, lambda native: sys.exit(3))
    assert handle.close()


@both
def test_declared_errors_pass_unchanged_and_poison_nothing(manager: SafetyManager, access: Any) -> None:
    _, handle = registered(manager)
    error = KeyError("missing")
    with handle:
        for errors in (KeyError, (KeyError,), [KeyError], LookupError, (OSError, LookupError)):
            with pytest.raises(KeyError) as passed:
                access(manager, handle, error, errors=errors)
            assert passed.value is error
        assert handle.valid
    assert (manager.stats().errors, manager.stats().panics) == (5, 0)
    assert manager.stats().types["native"].errors == 5


def test_the_nearest_declaration_wins() -> None:
    with SafetyManager(SafetyConfig(errors=(OSError,))) as manager:

        def passes(error: type[Exception], **more: Any) -> bool:
            _, handle = registered(manager)
            with handle:
                try:
                    manager.safe_access(handle, raising(error()), **more)
                except AccessPanicError:
                    return False
                except error:
                    return True
                return False

        assert passes(OSError)
        assert not passes(KeyError)
        manager.policy("native", errors=KeyError)
        assert passes(KeyError)
        assert not passes(OSError)
        assert passes(ValueError, errors=ValueError)
        assert not passes(KeyError, errors=ValueError)
        manager.policy("native", errors=())
        assert passes(OSError)


def test_a_panic_while_others_hold_the_object_shuts_it_and_waits(manager: SafetyManager) -> None:
    """I2."""
    native, handle = registered(manager)
    with handle.lease() as held:
        with pytest.raises(AccessPanicError):
            manager.safe_access(handle, lambda native: 1 / 0)
        assert handle.state == "invalid"
        held.use()
        assert native.released == 0
    eventually(lambda: handle.close())
    assert native.errors == []


@both
def test_without_state_checking_a_panic_is_counted_and_poisons_nothing(access: Any) -> None:
    with SafetyManager(SafetyConfig(enable_state_checking=False)) as manager:
        _, handle = registered(manager)
        with pytest.raises(AccessPanicError, match="stays open"):
            access(manager, handle, ValueError("odd"))
        assert handle.valid
        assert manager.stats().panics == 1
        handle.close()


def test_the_release_may_run_inside_and_fail(manager: SafetyManager) -> None:
    """I6: what the release raises does not replace the panic."""

    def bad(native: Native) -> None:
        raise OSError("release failed")

    handle = manager.register(Native(), release=bad, release_on=ANY_THREAD)
    with pytest.raises(AccessPanicError, match="ZeroDivisionError"):
        manager.safe_access(handle, lambda native: 1 / 0)
    assert handle.state == "failed"


def test_accesses_nest(manager: SafetyManager) -> None:
    outer_native, outer = registered(manager)
    _, inner = registered(manager)

    def use_inner(native: Native) -> None:
        manager.safe_access(inner, lambda native: 1 / 0)

    with pytest.raises(AccessPanicError, match=rf"object {outer.id}\)") as panic:
        manager.safe_access(outer, use_inner)
    assert isinstance(panic.value.__cause__, AccessPanicError)
    assert f"object {inner.id})" in str(panic.value.__cause__)
    assert outer_native.released == 1


def test_closing_inside_an_access_releases_after_it(manager: SafetyManager) -> None:
    """I2."""
    native, handle = registered(manager)

    def use_and_close(held: Native) -> str:
        handle.close()
        return held.use()

    assert manager.safe_access(handle, use_and_close) == "it"
    eventually(lambda: handle.close())
    assert native.errors == []


def test_a_block_is_entered_once(manager: SafetyManager) -> None:
    _, handle = registered(manager)
    access = manager.safe_access(handle)
    with access:
        pass
    with pytest.raises(LeaseEndedError, match="safe_access"):
        with access:
            pytest.fail("entered twice")
    assert handle.close()


# -- functions whose body would run later --------------------------------------------------------------------


async def coroutine_function(native: Native) -> str:
    return native.use()


def generator_function(native: Native) -> Iterator[str]:
    yield native.use()


async def async_generator_function(native: Native) -> AsyncIterator[str]:
    yield native.use()


class AsyncCall:
    async def __call__(self, native: Native) -> str:
        return native.use()


@pytest.mark.parametrize(
    "fn",
    [
        coroutine_function,
        generator_function,
        async_generator_function,
        functools.partial(coroutine_function),
        lambda native: coroutine_function(native),
        lambda native: (n for n in (native,)),
        AsyncCall(),
    ],
    ids=[
        "coroutine",
        "generator",
        "async-generator",
        "partial",
        "lambda",
        "generator-expression",
        "async-call",
    ],
)
def test_bodies_that_would_run_later_are_refused(manager: SafetyManager, fn: Any) -> None:
    """I9: by name, with the remedy; the object stays as it was, and nothing of the body ever runs."""
    native, handle = registered(manager)
    with pytest.raises(CallbackError, match=rf"object {handle.id}.*after the lease.*plain function"):
        manager.safe_access(handle, fn)
    assert handle.valid
    assert manager.stats().panics == 0
    handle.close()
    assert native.errors == []


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [42, "text", ()])
def test_what_is_not_callable_is_refused_and_poisons_nothing(manager: SafetyManager, fn: Any) -> None:
    """I9."""
    _, handle = registered(manager)
    with pytest.raises(LifecycleError, match="callable") as refused:
        manager.safe_access(handle, fn)
    assert not isinstance(refused.value, AccessPanicError)
    assert handle.valid
    assert manager.stats().panics == 0
    handle.close()


@both
@pytest.mark.parametrize("errors", [42, (42,), "ValueError", (int,)])
def test_errors_that_are_none_are_refused(manager: SafetyManager, access: Any, errors: Any) -> None:
    """I9: and what was raised in the access is not lost: it is the error's context."""
    _, handle = registered(manager)
    with pytest.raises(ConfigError, match=r"errors=.*exception classes") as refused:
        access(manager, handle, ValueError("mine"), errors=errors)
    chain: list[BaseException] = [refused.value]
    while (context := chain[-1].__context__) is not None:
        chain.append(context)
    assert len(chain) == 1 or str(chain[-1]) == "mine"
    del refused, chain, context
    assert handle.close()


def test_concurrent_accesses_while_one_panics(manager: SafetyManager) -> None:
    """I1, I2, I6."""
    native, handle = registered(manager)
    go = threading.Barrier(4)
    outcomes: list[str] = []

    def work(n: int) -> None:
        go.wait(10)
        for turn in range(2000):
            try:
                manager.safe_access(handle, lambda held: 1 / 0 if n == 0 and turn == 100 else held.use())
            except AccessPanicError:
                outcomes.append("panic")
                return
            except AccessRefusedError:
                outcomes.append("refused")
                return
        outcomes.append("finished")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("panic") == 1
    eventually(lambda: native.released == 1)
    assert native.errors == []
    assert manager.stats().panics == 1
