"""Memory that is written again while somebody slow reads it: torn without the fence, clean with it."""

from __future__ import annotations

import pytest

from tests.core.adversary import in_own_process
from tests.sharing import torn


def test_another_thread_reads_torn_frames_without_the_fence() -> None:
    assert torn.by_thread(fenced=False) > 0


def test_another_thread_reads_no_torn_frame_with_it() -> None:
    assert torn.by_thread(fenced=True) == 0


def show(fenced: bool) -> None:
    print(torn.by_process(fenced))


@pytest.mark.parametrize("fenced", [False, True])
def test_another_process_over_shared_memory(fenced: bool) -> None:
    """In a process of its own: the resource tracker of multiprocessing is a child that would outlive the
    test."""
    frames_torn = int(in_own_process(show, fenced, timeout=60).split()[-1])
    assert (frames_torn > 0) is not fenced
