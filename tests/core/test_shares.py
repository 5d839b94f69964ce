"""Shares: `share()` gives another, `close()` gives one back, the last shuts the door."""

from __future__ import annotations

import gc
import threading

import pytest

from lifecycle import ANY_THREAD, AccessRefusedError, Handle, ReleaseQueue, SafetyManager
from tests.core.natives import Native
from tests.support import eventually


def registered(manager: SafetyManager, native: Native) -> Handle[Native]:
    return manager.register(native, "native", release=Native.free, release_on=ANY_THREAD)


def test_the_last_share_releases(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    shares = [handle.share() for _ in range(3)]
    assert handle.close() is False
    assert [share.close() for share in shares] == [False, False, True]
    assert native.released == 1
    assert handle.close() is True


def test_a_share_is_the_same_object(manager: SafetyManager) -> None:
    handle = registered(manager, Native("me"))
    with handle, handle.share() as share:
        assert (share.id, share.native, share.type_name) == (handle.id, handle.native, handle.type_name)
        assert share is not handle
        with handle.lease() as one, share.lease() as other:
            assert one is other


def test_shares_of_shares(manager: SafetyManager) -> None:
    native = Native()
    shares = [registered(manager, native)]
    for _ in range(50):
        shares.append(shares[-1].share())
    for share in shares[:-1]:
        assert share.close() is False
    assert native.released == 0
    assert shares[-1].close() is True


def test_a_closed_share_gives_no_access_though_the_object_is_valid(manager: SafetyManager) -> None:
    """I1 holds for each share."""
    handle = registered(manager, Native())
    share = handle.share()
    handle.close()
    assert not handle.valid
    assert share.valid
    assert share.state == handle.state == "valid"
    for access in (
        handle.lease,
        handle.share,
        handle.__enter__,
        lambda: handle.view(0x1000, 16),
        lambda: manager.safe_access(handle, Native.use),
        lambda: manager.safe_access(handle),
        lambda: manager.add_cleanup(handle, print),
        lambda: manager.register(Native(), parent=handle),
    ):
        with pytest.raises(AccessRefusedError, match=r"this share of native .* is closed.*share\(\)"):
            access()
    assert share.close()


def test_is_valid_speaks_of_the_handle_it_was_given(manager: SafetyManager) -> None:
    """It says what an access through that handle would meet."""
    handle = registered(manager, Native())
    share = handle.share()
    handle.close()
    assert manager.is_valid(share)
    assert manager.is_valid(share.id)
    assert not manager.is_valid(handle)
    share.close()


def test_closing_one_share_twice_gives_back_one(manager: SafetyManager) -> None:
    """I3: giving back twice is giving back once."""
    native = Native()
    handle = registered(manager, native)
    share = handle.share()
    assert [handle.close(), handle.close(), handle.close()] == [False] * 3
    assert share.valid
    assert native.released == 0
    assert share.close()


@pytest.mark.parametrize("how", ["unregister", "invalidate"])
def test_some_things_shut_it_for_everybody(manager: SafetyManager, how: str) -> None:
    native = Native()
    handle = registered(manager, native)
    share = handle.share()
    if how == "unregister":
        assert manager.unregister(share) is True
    else:
        assert manager.invalidate(share, "no more") is True
    for one in (handle, share):
        with pytest.raises(AccessRefusedError, match=how):
            one.lease()
    assert handle.close() is share.close() is True
    assert native.released == 1


def test_a_dropped_share_is_given_back(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    share = handle.share()
    del share
    assert handle.valid
    handle.close()
    eventually(lambda: native.released == 1)


def test_a_dropped_first_handle_leaves_the_shares_alone(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    share = handle.share()
    del handle
    with share.lease() as held:
        held.use()
    share.close()
    eventually(lambda: native.released == 1)
    assert native.errors == []


def test_nothing_is_kept_of_shares(manager: SafetyManager) -> None:
    """I8: tables shrink with what they are about."""
    for _ in range(20):
        handle = registered(manager, Native())
        shares = [handle.share() for _ in range(3)]
        for share in shares:
            share.close()
        handle.close()
    assert len(manager._registry.shared) == 0
    assert len(manager._registry.claims) == 0
    eventually(lambda: not manager._registry.roots)


def test_shares_made_and_closed_on_many_threads(manager: SafetyManager) -> None:
    """I1, I3: while anybody has an open share the object lives; with the last it is released, once."""
    native = Native("shared")
    first = registered(manager, native)
    errors: list[BaseException] = []
    go = threading.Barrier(5)

    def work() -> None:
        try:
            mine = first.share()
            go.wait(10)
            for _ in range(300):
                share = mine.share()
                mine.close()
                with share.lease() as held:
                    assert held.released == 0
                mine = share
            mine.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.wait(10)
    first.close()
    for thread in threads:
        thread.join()
    assert errors == []
    eventually(lambda: manager.stats().released == 1)
    assert native.released == 1
    assert native.errors == []


def test_one_share_given_out_while_the_last_is_closed(manager: SafetyManager) -> None:
    """I1, I3: whoever wins, a share that was given is usable until it is closed, and the object is released
    once."""
    for _ in range(300):
        native = Native("raced")
        handle = registered(manager, native)
        weak = handle.weak()
        got: list[Handle[Native]] = []
        go = threading.Barrier(2)

        def revive(weak: object = weak, got: list[Handle[Native]] = got, go: threading.Barrier = go) -> None:
            go.wait(10)
            share = weak()  # type: ignore[operator]
            if share is not None:
                got.append(share)

        thread = threading.Thread(target=revive)
        thread.start()
        go.wait(10)
        handle.close()
        thread.join()
        for share in got:
            with share.lease() as held:
                assert held.released == 0
            share.close()
        eventually(lambda native=native: native.released == 1)  # type: ignore[misc]
        assert native.errors == []


def test_the_same_handle_closed_by_many_threads(manager: SafetyManager) -> None:
    """I3."""
    queue = ReleaseQueue("any")
    for place in (ANY_THREAD, queue):
        for _ in range(100):
            native = Native()
            handle = manager.register(native, release=Native.free, release_on=place)
            share = handle.share()
            go = threading.Barrier(4)

            def close(handle: Handle[Native] = handle, go: threading.Barrier = go) -> None:
                go.wait(10)
                handle.close()

            threads = [threading.Thread(target=close) for _ in range(3)]
            for thread in threads:
                thread.start()
            go.wait(10)
            assert share.valid
            for thread in threads:
                thread.join()
            assert share.valid
            share.close()
            queue.drain()
            eventually(lambda native=native: queue.drain() >= 0 and native.released == 1)  # type: ignore[misc]
            assert native.errors == []


def test_a_closed_share_is_closed_again_whoever_holds_the_object(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "shared", release=Native.free, release_on=ANY_THREAD)
    other = handle.share()
    assert not other.close()
    assert not other.close(held="refuse")
    assert handle.valid
    assert handle.close()


def test_shares_that_are_dropped_one_after_the_other_leave_nothing_behind(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    weak = handle.weak()
    kept = [handle.share() for _ in range(300)]
    for _ in range(3000):
        handle.share()
        weak()
    assert len(manager._registry.shared[handle.id]) < 2 * len(kept) + 200
    assert all(share.valid for share in kept)
    for share in [handle, *kept[1:]]:
        assert share.close() is False
    assert (kept[0].valid, native.released) == (True, 0)
    kept[0].close()
    eventually(lambda: native.released == 1)
    assert handle.state == "released"
    eventually(lambda: manager.stats().leaks == 1)


def test_a_share_in_a_garbage_cycle_is_no_dropped_one(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    saved: list[Handle[Native]] = []

    class Keeper:
        def __init__(self, share: Handle[Native]) -> None:
            self.share = share
            self.me = self

        def __del__(self) -> None:
            for _ in range(
                300
            ):  # dropped ones are looked for while the weak references on this one are cleared
                self.share.share()
            saved.append(self.share)

    for _ in range(300):
        handle.share()
    Keeper(handle.share())
    gc.collect()
    assert len(saved) == 1
    for _ in range(300):
        handle.share()
    handle.close()
    assert (saved[0].valid, native.released) == (True, 0)
    saved.pop().close()
    eventually(lambda: native.released == 1)


def test_a_weak_handle_made_in_a_garbage_cycle_gives_shares(manager: SafetyManager) -> None:
    native = Native()
    made: list[Handle[Native] | None] = []

    class Keeper:
        def __init__(self, handle: Handle[Native]) -> None:
            self.handle = handle
            self.me = self

        def __del__(self) -> None:
            made.append(self.handle.weak()())
            self.handle.close()

    Keeper(registered(manager, native))
    gc.collect()
    assert made[0] is not None
    assert (made[0].valid, native.released) == (True, 0)
    made[0].close()
    eventually(lambda: native.released == 1)
