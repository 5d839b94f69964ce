"""I9: whatever bad input comes, the error names the object, its state and what to do; nothing is lost or
leaked by the refusal.

Each line of the promise about bad input that concerns the core has a test of its own here.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessError,
    AccessPanicError,
    AccessRefusedError,
    ClosedError,
    Handle,
    LifecycleError,
    RegistrationError,
    ReleaseQueue,
    SafetyManager,
    Timeline,
)
from lifecycle.errors import (
    CallbackError,
    ConfigError,
    DuplicateError,
    ForeignHandleError,
    LimitError,
    UnknownObjectError,
)
from tests.core.natives import Native
from tests.support import eventually


@pytest.fixture
def other() -> Iterator[SafetyManager]:
    with SafetyManager(name="the other") as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left_behind(manager: SafetyManager) -> Iterator[None]:
    """After every refusal the tables hold what they held before."""
    yield
    gc.collect()

    def clean() -> bool:
        registry = manager._registry
        live = manager.stats().active_objects
        return (
            live == 0
            and not registry.roots
            and not registry.shared
            and not registry.claims
            and not registry.waiters
        )

    eventually(clean)


def free(manager: SafetyManager, **more: Any) -> Handle[Native]:
    return manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD, **more)


# -- unknown and foreign ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [10**9, 0, -1], ids=repr)
def test_unknown_ids(manager: SafetyManager, target: int) -> None:
    for access in (
        lambda: manager.safe_access(target, Native.use),
        lambda: manager.safe_access(target),
        lambda: manager.invalidate(target, "why"),
        lambda: manager.unregister(target),
        lambda: manager.add_cleanup(target, print),
    ):
        with pytest.raises(
            UnknownObjectError, match=rf"knows no object {target}: .*never registered here, or .*expired"
        ):
            access()
    assert manager.is_valid(target) is False


@pytest.mark.parametrize(
    "target", ["7", None, 7.0, object(), True, [1], Native()], ids=lambda value: type(value).__name__
)
def test_what_is_neither_handle_nor_id(manager: SafetyManager, target: Any) -> None:
    for access in (
        lambda: manager.safe_access(target, Native.use),
        lambda: manager.safe_access(target),
        lambda: manager.invalidate(target, "why"),
        lambda: manager.unregister(target),
        lambda: manager.add_cleanup(target, print),
    ):
        with pytest.raises(UnknownObjectError, match=r"neither a handle, a proxy nor an id of manager"):
            access()
    assert manager.is_valid(target) is False


def test_a_handle_of_another_manager(manager: SafetyManager, other: SafetyManager) -> None:
    with free(other) as handle:
        for target in (handle, handle.id):
            for access in (
                lambda target=target: manager.safe_access(target, Native.use),
                lambda target=target: manager.safe_access(target),
                lambda target=target: manager.invalidate(target, "why"),
                lambda target=target: manager.unregister(target),
                lambda target=target: manager.add_cleanup(target, print),
            ):
                with pytest.raises(
                    ForeignHandleError,
                    match=rf"native \(object {handle.id}\) belongs to manager 'the other', not to .*use that manager",
                ):
                    access()  # type: ignore[no-untyped-call]
            assert manager.is_valid(target) is False
        with pytest.raises(ForeignHandleError, match="belongs to manager 'the other'"):
            free(manager, parent=handle)
        assert handle.valid
        assert other.safe_access(handle, Native.use) == ""
    with pytest.raises(ForeignHandleError):
        manager.safe_access(handle, Native.use)
    assert (other.stats().panics, other.stats().refused) == (0, 0)


# -- a closed manager ----------------------------------------------------------------------------------------


def test_a_closed_manager(other: SafetyManager) -> None:
    handle = free(other)
    other.close()
    refused = Native()
    for attempt in (
        lambda: other.register(refused, release=Native.free, release_on=ANY_THREAD),
        lambda: other.registrar("t", release=Native.free)(Native(), None, 0),
        lambda: other.factory(Native, release=Native.free)(),
        lambda: other.set_safe_finalizer(Native(), print),
    ):
        with pytest.raises(ClosedError, match=r"manager 'the other' is closed.*make a new"):
            attempt()
    assert refused.released == 1
    assert refused.errors == []
    for access in (
        handle.lease,
        handle.share,
        lambda: other.safe_access(handle, Native.use),
        lambda: other.safe_access(handle.id),
    ):
        with pytest.raises(ClosedError, match=rf"object {handle.id}.*released .*with its manager"):
            access()
    assert other.stats().active_objects == 0


# -- registering ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 1.5, "5", None, True, False, 0.0, "", [], float("nan")], ids=repr)
def test_impossible_sizes(manager: SafetyManager, size: Any) -> None:
    native = Native()
    with pytest.raises(RegistrationError, match=r"size= is a number of native bytes, 0 or more, not "):
        manager.register(native, release=Native.free, size=size)
    assert native.released == 0
    assert manager.register(native, release=Native.free).close()
    assert manager.health().keeper_alive


@pytest.mark.parametrize("size", [-1, None, 2.5], ids=repr)
def test_impossible_sizes_given_to_a_registrar(manager: SafetyManager, size: Any) -> None:
    """It checks less, but nothing that would harm others: the keeper goes on."""
    register = manager.registrar("frame", release=Native.free, release_on=ANY_THREAD)
    try:
        register(Native(), None, size).close()
    except LifecycleError as error:
        assert "size" in str(error)
    free(manager).close()
    assert manager.stats().types["native"].ended["released"] == 1
    assert manager.health().keeper_alive


@pytest.mark.parametrize("release", [42, (), Native()], ids=lambda value: type(value).__name__)
def test_a_release_that_is_not_callable(manager: SafetyManager, release: Any) -> None:
    for attempt in (
        lambda: manager.register(Native(), release=release),
        lambda: manager.registrar("t", release=release),
        lambda: manager.factory(Native, release=release),
    ):
        with pytest.raises(RegistrationError, match="release must be callable, not "):
            attempt()
    assert manager.stats().total_objects == 0


async def coroutine_function(native: Native) -> None:
    native.free()


def generator_function(native: Native) -> Iterator[None]:
    yield native.free()


class AsyncCall:
    async def __call__(self, native: Native) -> None:
        native.free()


class AsyncMethod:
    async def free(self, native: Native) -> None:
        native.free()


@pytest.mark.parametrize(
    "release",
    [
        coroutine_function,
        generator_function,
        functools.partial(coroutine_function),
        AsyncCall(),
        AsyncMethod().free,
    ],
    ids=["coroutine", "generator", "partial", "async-call", "async-method"],
)
def test_a_coroutine_or_generator_function_as_callback(manager: SafetyManager, release: Any) -> None:
    """Its body would not run when it is called: a release of that kind would be a silent leak."""
    for attempt in (
        lambda: manager.register(Native(), release=release),
        lambda: manager.registrar("t", release=release),
        lambda: manager.factory(Native, release=release),
        lambda: manager.factory(release, release=Native.free),
        lambda: manager.policy("native", validate=release),
        lambda: manager.on_close(release),
        lambda: manager.add_observer(release),
        lambda: manager.set_safe_finalizer(Native(), release),
    ):
        with pytest.raises(CallbackError, match=r"coroutine or generator function.*plain function"):
            attempt()
    with free(manager) as handle:
        with pytest.raises(CallbackError, match="coroutine or generator function"):
            manager.add_cleanup(handle, release)
    assert manager.stats().total_objects == 1


def test_a_release_that_returns_a_coroutine_has_not_released(manager: SafetyManager) -> None:
    """What could not be seen at registration is seen when it is called."""
    handle = manager.register(
        Native(), release=lambda native: coroutine_function(native), release_on=ANY_THREAD
    )
    assert handle.close() is False
    assert handle.state == "failed"
    assert "coroutine" in repr(handle)


@pytest.mark.parametrize("type_name", ["", 42, b"bytes", ["list"], ("tuple",), {}], ids=repr)
def test_impossible_type_names(manager: SafetyManager, type_name: Any) -> None:
    for attempt in (
        lambda: manager.register(Native(), type_name, release=Native.free),
        lambda: manager.registrar(type_name, release=Native.free),
        lambda: manager.policy(type_name),
    ):
        with pytest.raises(RegistrationError, match="a type name is a text of one letter or more, not "):
            attempt()
    assert manager.stats().total_objects == 0


@pytest.mark.parametrize("name", [42, b"bytes", ["list"], 0, False], ids=repr)
def test_impossible_names(manager: SafetyManager, name: Any) -> None:
    with pytest.raises(RegistrationError, match="name= is a text, not "):
        manager.register(Native(), name=name, release=Native.free)


@pytest.mark.parametrize("place", [None, "BACKGROUND", 42, Native()], ids=lambda value: type(value).__name__)
def test_what_is_no_place(manager: SafetyManager, place: Any) -> None:
    native = Native()
    with pytest.raises(
        RegistrationError, match="release_on= takes BACKGROUND, ANY_THREAD or a ReleaseQueue, not "
    ):
        manager.register(native, release=Native.free, release_on=place)
    assert manager.register(native, release=Native.free).close()


@pytest.mark.parametrize("native", [[1], {}, set()], ids=repr)
def test_a_native_name_that_cannot_be_hashed(manager: SafetyManager, native: Any) -> None:
    thing = Native()
    with pytest.raises(RegistrationError, match="native= must be hashable"):
        manager.register(thing, native=native, release=Native.free)
    assert manager.stats().total_objects == 0
    assert thing.released == 0
    assert manager.register(thing, native=1, release=Native.free).close()
    assert thing.released == 1


def test_a_native_name_whose_hash_or_equality_raises(manager: SafetyManager) -> None:
    class Odd:
        def __hash__(self) -> int:
            raise ZeroDivisionError("mine")

    thing = Native()
    with pytest.raises((RegistrationError, ZeroDivisionError)):
        manager.register(thing, native=Odd(), release=Native.free)
    eventually(lambda: manager.stats().active_objects == 0)
    assert thing.released <= 1
    assert manager.register(Native(), release=Native.free).close()


def test_a_native_name_whose_repr_raises_breaks_no_message(manager: SafetyManager) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ZeroDivisionError("mine")

    handle = manager.register(Native(), native=Odd(), release=Native.free, release_on=ANY_THREAD)
    assert f"object {handle.id}" in repr(handle)
    handle.close()
    with pytest.raises(AccessRefusedError, match=f"object {handle.id}"):
        handle.lease()


@pytest.mark.parametrize("parent", [42, "parent", Native(), object()], ids=lambda value: type(value).__name__)
def test_what_is_no_parent(manager: SafetyManager, parent: Any) -> None:
    with pytest.raises(RegistrationError, match="parent= takes a handle or proxy of this manager, not "):
        manager.register(Native(), release=Native.free, parent=parent)
    assert manager.stats().total_objects == 0


def test_a_long_value_is_not_all_of_the_message(manager: SafetyManager) -> None:
    for value in ("x" * 5000, "a\nb " * 2000):
        with pytest.raises(RegistrationError) as caught:
            manager.register(object(), parent=value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("…")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, 16), "there is no address: handle.native is None where none was given as native="),
        ((None,), "there is no address"),
        ((bytearray(16), 8), "a size is for an address only: slice the view"),
        (("16", 16), "it takes an address and a size, or a buffer, not '16' and a size"),
        ((7.5,), "it takes an address and a size, or a buffer, not 7.5"),
    ],
)
def test_what_no_view_can_be_made_of(given: tuple[Any, ...], said: str, manager: SafetyManager) -> None:
    with manager.register(object(), release=None) as handle, pytest.raises(LifecycleError) as caught:
        handle.view(*given)
    assert said in str(caught.value)


def test_a_parent_that_is_closed(manager: SafetyManager) -> None:
    parent = free(manager)
    parent.close()
    with pytest.raises(AccessRefusedError, match=f"object {parent.id}.*released"):
        free(manager, parent=parent)


@pytest.mark.parametrize("retry_on", [42, (42,), ("OSError",), OSError("an instance")], ids=repr)
def test_impossible_retry_on(manager: SafetyManager, retry_on: Any) -> None:
    with pytest.raises(LifecycleError, match=r"register\(retry_on=\) takes exception classes, not "):
        manager.register(Native(), release=Native.free, retry_on=retry_on)
    assert manager.stats().total_objects == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True], ids=repr)
def test_impossible_factory_limits(manager: SafetyManager, limit: Any) -> None:
    with pytest.raises(
        RegistrationError, match=r"factory\(limit=\) takes a whole number above 0 or None, not "
    ):
        manager.factory(Native, release=Native.free, limit=limit)


@pytest.mark.parametrize("rule", ["max_age", "max_live", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1, "5", True, float("nan"), []], ids=repr)
def test_impossible_rules(manager: SafetyManager, rule: str, value: Any) -> None:
    with pytest.raises(
        RegistrationError, match=rf"policy\({rule}=\) of type 'native' takes a number above 0 or None, not "
    ):
        manager.policy("native", **{rule: value})
    with free(manager), free(manager):
        pass


def test_impossible_policies(manager: SafetyManager) -> None:
    with pytest.raises(ConfigError, match=r"policy\(errors=\) takes exception classes, not 42"):
        manager.policy("native", errors=42)
    with pytest.raises(RegistrationError, match="validate must be callable, not 42"):
        manager.policy("native", validate=42)  # type: ignore[arg-type]
    with free(manager) as handle:
        handle.lease().close()


# -- what a refusal leaves -----------------------------------------------------------------------------------


def test_a_refused_object_is_still_the_callers(manager: SafetyManager) -> None:
    """After each kind of refusal the same object can be registered, and is released once."""
    taken = free(manager, native=5)
    manager.policy("full", max_live=1)
    full = manager.register(Native(), "full", release=Native.free, release_on=ANY_THREAD)
    attempts: tuple[tuple[Callable[[Native], object], type[Exception]], ...] = (
        (lambda native: manager.register(native, release=Native.free, size=-1), RegistrationError),
        (lambda native: manager.register(native, release=Native.free, parent=42), RegistrationError),
        (
            lambda native: manager.register(
                native, "native", release=Native.free, release_on=ANY_THREAD, native=5
            ),
            DuplicateError,
        ),
        (lambda native: manager.register(native, "full", release=Native.free), LimitError),
        (lambda native: manager.register(native, release=Native.free, native=[]), RegistrationError),
    )
    for attempt, error in attempts:
        native = Native()
        with pytest.raises(error):
            attempt(native)
        assert native.released == 0
        with manager.register(native, release=Native.free, release_on=ANY_THREAD) as handle:
            assert handle.valid
        assert native.released == 1
        assert native.errors == []
    taken.close()
    full.close()
    assert manager.stats().total_objects == 7


# -- queues, managers, closing -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", None, 42], ids=repr)
def test_queues_and_managers_need_a_name(manager: SafetyManager, name: Any) -> None:
    with pytest.raises(RegistrationError, match="a ReleaseQueue needs a name, not "):
        ReleaseQueue(name)
    with pytest.raises(RegistrationError, match="a Timeline needs a name, not "):
        Timeline(name)
    with pytest.raises(LifecycleError, match=r"SafetyManager\(name=\) takes a name, not "):
        SafetyManager(name=name)


def test_a_manager_needs_a_config(manager: SafetyManager) -> None:
    with pytest.raises(LifecycleError, match=r"SafetyManager\(config=\) takes a SafetyConfig, not \{\}"):
        SafetyManager({})  # type: ignore[arg-type]


@pytest.mark.parametrize("thread", ["other", 1.5, object()], ids=lambda value: type(value).__name__)
def test_what_is_no_thread(manager: SafetyManager, thread: Any) -> None:
    with pytest.raises(
        RegistrationError, match="thread= takes a started Thread, an identity or 'current', not "
    ):
        ReleaseQueue("gl", thread=thread)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True], ids=repr)
def test_impossible_drain_limits(manager: SafetyManager, limit: Any) -> None:
    queue = ReleaseQueue("gl")
    with pytest.raises(
        LifecycleError, match=r"drain\(limit\) of queue 'gl' takes a whole number above 0 or None, not "
    ):
        queue.drain(limit)


def test_impossible_ways_of_closing_change_nothing(manager: SafetyManager) -> None:
    handle = free(manager)
    with pytest.raises(
        LifecycleError,
        match=rf"close\(held=\) of native \(object {handle.id}\) takes 'defer' or 'refuse', not 'wait'",
    ):
        handle.close(held="wait")
    with pytest.raises(
        LifecycleError,
        match=rf"close\(after=\) of native \(object {handle.id}\) takes a fence with a signalled\(\) method",
    ):
        handle.close(after=42)
    with pytest.raises(LifecycleError, match="timeout="):
        handle.close(timeout=-1)
    assert handle.valid
    assert handle.close() is True


def test_callbacks_that_are_not_callable(manager: SafetyManager) -> None:
    with free(manager) as handle:
        no_callable: Any = 42
        attempts: tuple[Callable[[], object], ...] = (
            lambda: manager.add_cleanup(handle, no_callable),
            lambda: manager.on_close(no_callable),
            lambda: manager.add_observer(no_callable),
            lambda: manager.factory(no_callable, release=None),
        )
        for attempt in attempts:
            with pytest.raises(RegistrationError, match="must be callable, not 42"):
                attempt()


def test_every_error_is_of_one_family() -> None:
    import lifecycle.errors

    ours = [value for name, value in vars(lifecycle.errors).items() if not name.startswith("_")]
    errors = [
        value for value in ours if isinstance(value, type) and value.__module__ == lifecycle.errors.__name__
    ]
    assert len(errors) > 15
    assert all(issubclass(error, LifecycleError) for error in errors)
    assert issubclass(UnknownObjectError, LookupError)
    assert issubclass(ForeignHandleError, UnknownObjectError)
    assert issubclass(DuplicateError, RegistrationError)
    assert issubclass(CallbackError, TypeError)
    assert issubclass(RegistrationError, ValueError)
    assert issubclass(AccessRefusedError, AccessError)


class Mute:
    """Cannot say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_second_owner_is_refused_where_the_native_cannot_say_its_name(manager: SafetyManager) -> None:
    native = Mute()
    released: list[str] = []
    first = manager.register("first", "type", release=released.append, release_on=ANY_THREAD, native=native)
    with pytest.raises(DuplicateError, match="native <Mute>"):
        manager.register("second", "type", release=released.append, release_on=ANY_THREAD, native=native)
    assert released == []
    first.close()
    assert released == ["first"]


@pytest.mark.parametrize(
    "how",
    [
        {"name": Mute()},
        {"size": Mute()},
        {"release": Mute()},
        {"release_on": Mute()},
        {"parent": Mute()},
        {"retry_on": Mute()},
        {"type_name": Mute()},
    ],
    ids=lambda how: next(iter(how)),
)
def test_bad_input_that_cannot_say_what_it_is(manager: SafetyManager, how: dict[str, Any]) -> None:
    released: list[str] = []
    with pytest.raises(LifecycleError):
        manager.register("object", **{"release": released.append, "release_on": ANY_THREAD, **how})
    assert released == []  # a refused object is the caller's


class Judging(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("not to be asked")


class Judged(Exception, metaclass=Judging):
    pass


@pytest.mark.parametrize("place", [BACKGROUND, ANY_THREAD])
def test_an_exception_class_that_judges_its_instances_is_not_asked(
    manager: SafetyManager, place: Any
) -> None:
    def release(obj: object) -> None:
        raise ValueError("not released")

    handle = manager.register("object", release=release, release_on=place, retry_on=Judged)
    handle.close()
    eventually(lambda: handle.state == "failed")
    with (
        manager.register("object", release=None) as other,
        pytest.raises(AccessPanicError),
    ):
        manager.safe_access(other, int, errors=Judged)


def test_an_event_of_no_known_kind_is_refused_with_the_kinds_that_there_are(manager: SafetyManager) -> None:
    with pytest.raises(LifecycleError, match=r"there is no event kind 'relaesed'; the kinds are .*released"):
        manager.report("relaesed")


def test_a_method_of_c_that_is_not_its_types_is_refused_since_it_keeps_the_object(
    manager: SafetyManager,
) -> None:
    class Hidden(list[int]):
        clear = None  # type: ignore[assignment]

    obj = Hidden()
    with pytest.raises(
        RegistrationError, match=r"keeps the object itself alive.*release=lambda obj: obj\.clear\(\)"
    ):
        manager.register(obj, "list", release=super(Hidden, obj).clear)
