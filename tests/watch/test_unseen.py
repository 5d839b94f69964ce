"""A call that something is done around leaves no trace in the program's tracebacks and warnings."""

from __future__ import annotations

import inspect
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle.watch.unseen import unseen


class Tap:
    def turn(self, how: str, *, times: int = 1) -> str:
        """Turn it."""
        if how == "warn":
            warnings.warn("turned", DeprecationWarning, stacklevel=2)
        if how == "raise":
            raise KeyError(how)
        if how == "stop":
            raise StopIteration(how)
        if how == "exit":
            raise SystemExit(3)
        return how * times


@pytest.fixture
def seen() -> list[object]:
    return []


@pytest.fixture
def call(seen: list[object]) -> Callable[..., Any]:
    def before(tap: object) -> str:
        seen.append("before")
        return "token"

    def after(tap: object, token: str) -> None:
        seen.append(token)

    def failed(tap: object, error: BaseException) -> None:
        seen.append(type(error))

    return types.MethodType(unseen(before, after, failed, Tap.turn), Tap())  # type: ignore[no-any-return]


def test_it_gives_back_what_the_call_gives(call: Callable[..., Any], seen: list[object]) -> None:
    assert call("x", times=3) == "xxx"
    assert seen == ["before", "token"]


def test_an_exception_has_the_entries_it_would_have(call: Callable[..., Any], seen: list[object]) -> None:
    with pytest.raises(KeyError) as caught:
        call("raise")
    names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_an_exception_has_the_entries_it_would_have", "turn"]
    assert seen == ["before", KeyError]


def test_its_context_is_its_own(call: Callable[..., Any]) -> None:
    first = ValueError()
    try:
        raise first
    except ValueError:
        with pytest.raises(KeyError) as caught:
            call("raise")
    assert caught.value.__context__ is first
    with pytest.raises(KeyError) as caught:
        call("raise")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("how", "kind"), [("stop", StopIteration), ("exit", SystemExit)])
def test_odd_exceptions_pass_as_they_are(
    call: Callable[..., Any], how: str, kind: type[BaseException]
) -> None:
    with pytest.raises(kind) as caught:
        call(how)
    assert type(caught.value) is kind


def test_a_wrong_call_is_refused_in_the_words_of_the_original(call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError) as ours:
        call()
    with pytest.raises(TypeError) as plain:
        Tap().turn()  # type: ignore[call-arg]
    assert str(ours.value) == str(plain.value)


def test_a_warning_names_the_callers_line(call: Callable[..., Any]) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        call("warn")
    line = inspect.currentframe()
    assert line is not None
    assert (given[0].filename, given[0].lineno) == (__file__, line.f_lineno - 3)


def test_it_says_of_itself_what_the_original_does(call: Callable[..., Any]) -> None:
    assert (call.__name__, call.__doc__) == ("turn", "Turn it.")
    assert str(inspect.signature(call)) == "(how: 'str', *, times: 'int' = 1) -> 'str'"
    assert inspect.ismethod(call)
