"""Time-outs, and what is said of leaks at exit, name who keeps what is lent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lifecycle import BufferPool, SafetyManager
from lifecycle._core import facts
from lifecycle._core.budget import Budget
from lifecycle.errors import PoolExhaustedError, PoolTimeoutError
from tests.support import run_python


class Viewer:
    picture: Any = None


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """One that no other test has spent, and that lasts for the heap of a whole suite."""
    made = Budget()
    made.STOCK = made._left = 30.0  # type: ignore[misc]
    monkeypatch.setattr(facts, "walks", made)
    return made


def test_a_time_out_names_variables_attributes_and_views(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 3, exhausted="refuse", name="frames")
    viewer = Viewer()
    viewer.picture = pool.get()
    frame = pool.get()
    seen = pool.get()
    window = seen.view()
    seen.close()
    with pytest.raises(PoolTimeoutError) as caught:
        pool.get(timeout=0.02)
    text = str(caught.value)
    assert "attribute 'picture' of a Viewer" in text
    assert (
        "local 'frame' of test_a_time_out_names_variables_attributes_and_views() at test_keepers.py:" in text
    )
    assert "view made at test_keepers.py:" in text
    assert "local 'window'" in text
    with pytest.raises(PoolExhaustedError) as at_once:
        pool.get(timeout=0)
    assert "held by" not in str(at_once.value), "the heap is not walked for those who did not wait"
    del window
    frame.close()
    viewer.picture.close()


def test_time_outs_in_a_loop_walk_the_heap_within_a_budget(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that waits a moment, again and again, must not spend its time on words for errors."""
    walked: list[object] = []

    def slow(*args: object) -> tuple[str, ...]:
        time.sleep(0.1)  # a large heap
        walked.append(args)
        return ("somebody",)

    monkeypatch.setattr(facts, "all_holders", slow)
    monkeypatch.setattr(facts, "walks", Budget())
    pool = BufferPool(manager, 4096, 3, exhausted="refuse")
    lent = [pool.get() for _ in range(3)]
    texts = []
    for _ in range(10):
        with pytest.raises(PoolTimeoutError) as caught:
            pool.get(timeout=0.001)
        texts.append(str(caught.value))
    assert "held by somebody" in texts[0]
    assert 3 <= len(walked) < 15, "30 without a budget"
    assert "held by" not in texts[-1]
    assert "Held longest: " in texts[-1]
    while lent:
        lent.pop().close()


def test_what_is_left_at_exit_is_told_with_who_keeps_it() -> None:
    done = run_python(
        """
        from lifecycle import ANY_THREAD, SafetyManager
        manager = SafetyManager(name="app")
        handle = manager.register([1], "frame", release=list.clear, release_on=ANY_THREAD)
        lease = handle.lease()
        """
    )
    assert "not released at exit" in done.stderr
    assert "held by lease" in done.stderr
