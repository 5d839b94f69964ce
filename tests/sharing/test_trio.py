"""Receivers in tasks of trio: they wait without blocking it, are woken by threads, and a cancelled one loses
no frame."""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import Any

import pytest

from lifecycle import ANY_THREAD, FrameDistributor, SafetyManager
from lifecycle.errors import ClosedError, Empty

pytestmark = pytest.mark.needs("trio")


@pytest.fixture
def trio() -> Any:
    """The package."""
    return importlib.import_module("trio")


def test_frames_of_a_thread(trio: Any, manager: SafetyManager) -> None:
    made = FrameDistributor[Any](capacity=64)
    receivers = [made.subscribe() for _ in range(3)]
    got: list[list[int]] = [[] for _ in receivers]

    async def receive(receiver: Any, into: list[int]) -> None:
        async for frame in receiver:
            with frame.lease() as native:
                into.append(native[0])

    async def main() -> None:
        def publish() -> None:
            for number in range(40):
                with manager.register([number], "frame", release=None, release_on=ANY_THREAD) as handle:
                    made.publish(handle)
            made.close()

        async with trio.open_nursery() as nursery:
            for receiver, into in zip(receivers, got, strict=True):
                nursery.start_soon(receive, receiver, into)
            threading.Thread(target=publish).start()

    trio.run(main)
    assert got == [list(range(40))] * 3
    assert [receiver.missed for receiver in receivers] == [0] * 3


def test_a_cancelled_recv_loses_nothing(trio: Any) -> None:
    made = FrameDistributor[Any](capacity=8)
    receiver = made.subscribe()
    got: list[int] = []

    async def main() -> None:
        for number in range(20):
            with trio.CancelScope() as scope:

                async def publish(number: int = number, scope: Any = scope) -> None:
                    for _ in range(number % 3):
                        await trio.lowlevel.checkpoint()
                    made.publish(number)
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(publish)
                    got.append(await receiver.recv_async())
            with contextlib.suppress(Empty):
                got.append(await receiver.recv_async(0))

    trio.run(main)
    assert got == list(range(20))
    assert (receiver.received, receiver.missed) == (20, 0)


def test_timeouts_and_the_end(trio: Any) -> None:
    made = FrameDistributor[Any](capacity=8)
    receiver = made.subscribe()

    async def main() -> None:
        with pytest.raises(Empty):
            await receiver.recv_async(0.01)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ClosedError):
                    await receiver.recv_async()

            nursery.start_soon(wait)
            await trio.lowlevel.checkpoint()
            threading.Thread(target=made.close).start()

    trio.run(main)
