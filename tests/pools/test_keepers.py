"""Time-outs, and what is said of leaks at exit, name who keeps what is lent."""

from __future__ import annotations

from typing import Any

import pytest

from lifecycle import BufferPool, SafetyManager
from lifecycle.errors import PoolExhaustedError, PoolTimeoutError
from tests.support import run_python


class Viewer:
    picture: Any = None


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
