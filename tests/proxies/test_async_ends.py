"""Ends that are coroutine functions: leaving an ``async with`` block, and what ``ends=`` names."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

import pytest

from lifecycle import AccessRefusedError, HeldError, SafetyManager
from lifecycle.errors import ExclusiveError
from lifecycle.proxies import Child, handle_of


class Part:
    def __init__(self) -> None:
        self.freed = 0

    async def __aenter__(self) -> Part:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)
        self.freed += 1

    async def read(self) -> int:
        return self.freed

    def free(self) -> None:
        self.freed += 1


class Client:
    """As the clients of asynchronous libraries."""

    def __init__(self) -> None:
        self.ended = 0
        self.memory = bytearray(8)
        self.fails = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)
        self.close()

    def close(self) -> None:
        self.ended += 1

    async def aclose(self) -> str:
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("busy")
        self.ended += 1
        return "gone"

    async def read(self) -> int:
        await asyncio.sleep(0.01)
        assert not self.ended, "ended under a call"
        return 7

    def part(self) -> Part:
        return Part()

    def view(self) -> memoryview:
        return memoryview(self.memory)


class File:
    closed = False
    ended = 0

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.finish()

    async def finish(self) -> None:
        self.closed = True
        self.ended += 1

    def close(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("kind", [Client, File])
def test_leaving_the_block_is_the_end(kind: Any, manager: SafetyManager) -> None:
    raw = kind()
    client = manager.proxy(raw, release="close")

    async def main() -> None:
        async with client as same:
            assert same is client
        assert handle_of(client).state == "released"

    asyncio.run(main())
    assert manager.close().ok
    assert raw.ended == 1, "not released a second time"


@pytest.mark.parametrize("ends", [("aclose",), ("__aexit__",), ("aclose", "__aexit__")])
def test_a_coroutine_function_is_an_end(ends: tuple[str, ...], manager: SafetyManager) -> None:
    raw = Client()
    client = manager.proxy(raw, release="close", ends=ends, children={Part: "free"})

    async def main() -> None:
        part = client.part()
        with handle_of(part).lease() as raw_part:
            pass
        if "aclose" in ends:
            assert await client.aclose() == "gone"
        else:
            async with client:
                pass
        assert raw_part.freed == 1, "children go first"
        with pytest.raises(AccessRefusedError):
            await client.read()

    asyncio.run(main())
    assert manager.close().ok
    assert raw.ended == 1


def test_no_other_call_is_inside(manager: SafetyManager) -> None:
    raw = Client()
    client = manager.proxy(raw, release="close", ends=("aclose",))

    async def main() -> None:
        reading = asyncio.create_task(client.read())
        await asyncio.sleep(0)
        with pytest.raises((ExclusiveError, HeldError)):
            await client.aclose()
        assert await reading == 7
        ending = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        with pytest.raises(ExclusiveError):
            await client.read()
        assert await ending == "gone"

    asyncio.run(main())
    assert handle_of(client).state == "released"
    assert raw.ended == 1


def test_one_that_raises_or_is_cancelled_has_not_ended_it(manager: SafetyManager) -> None:
    raw = Client()
    client = manager.proxy(raw, release="close", ends=("aclose",))

    async def main() -> None:
        raw.fails = True
        with pytest.raises(OSError, match="busy"):
            await client.aclose()
        ending = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert await client.read() == 7
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # never awaited
            never = client.aclose()
            del never
            gc.collect()
        assert handle_of(client).valid
        raw.fails = False
        await client.aclose()

    asyncio.run(main())
    assert manager.close().ok
    assert raw.ended == 1


def test_it_is_refused_while_there_is_a_view(manager: SafetyManager) -> None:
    raw = Client()
    client = manager.proxy(raw, release="close")

    async def main() -> None:
        view = client.view()
        with pytest.raises(HeldError, match="view"):
            async with client:
                pass
        assert handle_of(client).valid
        del view

    asyncio.run(main())
    client.close()
    assert raw.ended == 1


def test_a_light_child_ends_alone(manager: SafetyManager) -> None:
    client = manager.proxy(Client(), release="close", children={Part: Child(None, ends=("__aexit__",))})

    async def main() -> None:
        async with client.part() as part:
            assert await part.read() == 0
        with pytest.raises(AccessRefusedError):
            await part.read()
        assert await client.read() == 7

    asyncio.run(main())
    client.close()
