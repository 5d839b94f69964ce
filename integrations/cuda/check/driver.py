"""The checks that need the driver alone. Each of them stands alone, and returns what it has seen."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from functools import partial
from typing import Any

from lifecycle import ANY_THREAD, Handle
from lifecycle.errors import AccessRefusedError, LifecycleError
from lifecycle.integrations import dlpack
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.check.bench import (
    MIB,
    SOON,
    Bench,
    NotHere,
    eventually,
    expect,
    held_up,
    refused,
)
from lifecycle.integrations.cuda.devices import device
from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.integrations.cuda.memory import Memory
from lifecycle.integrations.cuda.streams import CUDAFence, timeline
from lifecycle.integrations.gpu.errors import TransferError


def the_device(bench: Bench) -> str:
    """The driver, the device, its primary context."""
    version = _driver.integer("cuDriverGetVersion")
    free, total = bench.device.memory()
    expect(0 < free <= total, "the device tells its memory")
    expect(not bench.device.here(), "no context is current before it is made so")
    with bench.device.current():
        expect(bench.device.here(), "here() inside current()")
    expect(not bench.device.here(), "the context was put back")
    refused(CUDAError, lambda: device(999), "a device that is not there")
    return (
        f"{bench.device.name}, driver for CUDA {version // 1000}.{version % 1000 // 10}, {total // MIB} MiB"
    )


def owned_memory(bench: Bench) -> str:
    """Memory is freed exactly once: the device's own count says so."""
    bench.memory(64 * MIB).close(timeout=SOON)  # what the driver keeps for itself is there now
    before = bench.device.memory()[0]
    handles = [bench.memory(64 * MIB) for _ in range(4)]
    during = bench.device.memory()[0]
    for handle in handles:
        expect(handle.close(timeout=SOON), "memory was freed by close")
        expect(handle.close(), "closing twice gives the same answer")
    after = bench.device.memory()[0]
    expect(before - during >= 4 * 64 * MIB, f"256 MiB were allocated, and {before - during} bytes are gone")
    expect(after >= before - 2 * MIB, f"{before - after} bytes did not come back")
    refused(TransferError, lambda: bench.memory(0), "memory of no bytes")
    refused(CUDAError, lambda: bench.memory(1 << 46), "64 TiB")
    expect(bench.device.memory()[0] >= before - 2 * MIB, "a refused allocation took nothing")
    return f"4 x 64 MiB taken and given back, {before - after} bytes of difference"


def dropped_memory(bench: Bench) -> str:
    """Handles that are dropped, also on other threads, free what they had."""
    before = bench.device.memory()[0]

    def drop() -> None:
        for _ in range(8):
            bench.memory(16 * MIB)

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    eventually(lambda: bench.device.memory()[0] >= before - 2 * MIB, "dropped memory came back")
    return "32 x 16 MiB dropped on 4 threads: all came back"


def copies(bench: Bench) -> str:
    """Asynchronous copies there and back; ranges that are not there are refused before the call."""
    size = 32 * MIB
    source, middle, target = bench.pinned(size), bench.memory(size), bench.pinned(size)
    pattern = bytes(range(256)) * (size // 256)
    bench.view(source)[:] = pattern
    began = time.perf_counter()
    with bench.line.submission() as work:
        work.copy(middle, source)  # type: ignore[attr-defined]
        work.copy(target, middle)  # type: ignore[attr-defined]
    expect(bench.line.wait(SOON), "the copies ended")
    took = time.perf_counter() - began
    expect(bytes(bench.view(target)) == pattern, "the bytes that came back are those that were sent")
    with bench.line.submission() as work:
        fill: Any = work
        fill.fill(middle, 0xAB, 1000, offset=24)
        refused(TransferError, lambda: fill.copy(middle, source, size, to_offset=1), "beyond the end")
        refused(TransferError, lambda: fill.copy(middle, source, -1), "a negative size")
        refused(TransferError, lambda: fill.fill(middle, 256), "a byte of 256")
        refused(TransferError, lambda: fill.copy(middle, bench.first), "a stream as memory")
    expect(bench.line.wait(SOON), "the fill ended")
    seen = bench.read(middle, 1100)
    expect(seen == pattern[:24] + b"\xab" * 1000 + pattern[1024:1100], "filled where it was to be")
    with middle.lease() as memory:
        refused(TransferError, lambda: memory.view(middle), "a view of device memory")
    for handle in (source, middle, target):
        expect(handle.close(timeout=SOON), "freed")
    return f"{2 * size / took / 1e9:.1f} GB/s there and back"


def in_flight(bench: Bench) -> str:
    """Closing is right at any moment: what a stream uses is freed when it has come so far."""
    memory, host = bench.memory(4096), bench.pinned(4096)
    with held_up(bench.line) as gate:
        with bench.line.submission() as work:
            work.copy(memory, host)  # type: ignore[attr-defined]
        expect(not host.close(), "close() of what is in flight says False")
        expect(not memory.close(timeout=0), "and does not wait for it")
        expect(bench.line.poll() == 0 and bench.line.in_flight == 1, "nothing ended")
        expect(not work.done, "the submission is pending")
        holder = memory.holders()[0]
        expect(holder.kind == "submission" and "first" in holder.what, f"the holder is named: {holder}")
        refused(AccessRefusedError, memory.lease, "a lease of what was closed")
        gate.open()
        expect(host.close(timeout=SOON) and memory.close(timeout=SOON), "whoever waits polls")
    expect(work.done and bench.line.in_flight == 0, "the submission ended")
    return "pending while the stream stands still, freed once it has come so far"


def exclusive_use(bench: Bench) -> str:
    """`exclusive` waits for the device, and `manager.drain` of its end."""
    memory = bench.memory(4096)
    with held_up(bench.line) as gate:
        with bench.line.submission() as work:
            work.fill(memory, 1)  # type: ignore[attr-defined]
        refused(LifecycleError, lambda: memory.exclusive(timeout=0.05).__enter__(), "exclusive, in flight")
        gate.open()
        with memory.exclusive(timeout=SOON):
            expect(bench.line.in_flight == 0, "the device was done")
    memory.close(timeout=SOON)
    return "refused in flight, given after"


def fences_elsewhere(bench: Bench) -> str:
    """An event may be asked on a thread without a context; a timeline's own thread drops the pins."""
    line = timeline(bench.first, name="waited for", waiter=True)
    released: list[int] = []
    handle = bench.manager.register(1, "token", release=released.append, release_on=ANY_THREAD, unique=False)
    said: list[object] = []
    with held_up(line) as gate:
        with line.submission() as work:
            work.use(handle)
        handle.close()
        fence = CUDAFence(bench.line.stream)
        asking = threading.Thread(target=lambda: said.append(fence.signalled()))
        asking.start()
        asking.join()
        gate.open()
    eventually(lambda: released, "the pins were dropped though nobody polled")
    eventually(fence.signalled, "the fence signalled")
    fence.delete()
    fence.delete()
    refused(CUDAError, fence.signalled, "a fence that was deleted")
    expect(said == [False], f"asked on another thread a pending fence said {said}")
    return "asked on any thread; dropped by the timeline's own"


def in_order(bench: Bench) -> str:
    """Submissions end in the order of their fences, and only the oldest is asked."""
    released: list[int] = []
    works = []
    with held_up(bench.line) as gate:
        for number in range(200):
            handle = bench.manager.register(
                number, "token", release=released.append, release_on=ANY_THREAD, unique=False
            )
            with bench.line.submission() as work:
                work.use(handle)
            works.append(work)
            handle.close()
        expect(bench.line.in_flight == 200 and not released, "all are in flight")
        gate.open()
        until = time.monotonic() + SOON
        while bench.line.in_flight:
            bench.line.poll()
            # The last first: one that ends meanwhile stands behind those that were seen.
            done = [work.done for work in reversed(works)]
            expect(done == sorted(done), "none ends before one that came earlier")
            expect(time.monotonic() < until, "all ended")
    eventually(lambda: len(released) == 200, "all were released")
    return "200 in flight, ended in order"


def across_streams(bench: Bench) -> str:
    """One stream waits for another on the device; an object used by both is held for both."""
    memory = bench.memory(4096)
    host = bench.pinned(4096)
    with held_up(bench.line) as gate:
        with bench.line.submission() as work:
            work.fill(memory, 7)  # type: ignore[attr-defined]
        with bench.other.submission() as after:
            after.wait_for(bench.line)  # type: ignore[attr-defined]
            after.copy(host, memory)  # type: ignore[attr-defined]
        time.sleep(0.02)
        expect(bench.other.poll() == 0 and not after.done, "the second stream waits for the first")
        expect(sum(one.kind == "submission" for one in memory.holders()) == 2, "held for both")
        gate.open()
        expect(bench.other.wait(SOON), "the second stream came to its end")
    expect(bytes(bench.view(host)) == b"\x07" * 4096, "it read what the first had written")
    expect(memory.close(timeout=SOON) and host.close(timeout=SOON), "freed")
    return "a fence of one stream holds up the other"


def torn_reads(bench: Bench) -> str:
    """A slot that is written again while the device reads it: torn without `use`, whole with it."""
    torn = {True: 0, False: 0}
    for careful in (False, True):
        for _ in range(10):
            slot, target = bench.pinned(MIB), bench.memory(MIB)
            bench.view(slot)[:] = b"\x11" * MIB
            with slot.lease() as source, target.lease() as into, held_up(bench.line) as gate:
                copy = partial(
                    _driver.function("cuMemcpyAsync"), into.address, source.address, MIB, bench.line.number
                )
                with bench.line.submission() as work:
                    _driver.checked(_driver.run_in(source.context, copy), "a raw copy")
                    if careful:
                        work.use(slot)
                recycle = threading.Event()

                def writer(slot: Handle[Memory] = slot, recycle: threading.Event = recycle) -> None:
                    # Whoever fills the slot again waits until it is nobody's.
                    if not any(one.kind == "submission" for one in slot.holders()):
                        bench.view(slot)[:] = b"\x22" * MIB
                    recycle.set()

                thread = threading.Thread(target=writer)
                thread.start()
                recycle.wait(SOON)
                gate.open()
                thread.join()
                expect(bench.line.wait(SOON), "the copy ended")
            torn[careful] += bench.read(target, MIB) != b"\x11" * MIB
            slot.close(timeout=SOON)
            target.close(timeout=SOON)
    expect(torn == {True: 0, False: 10}, f"torn {torn[False]} of 10 without, {torn[True]} of 10 with")
    return "torn 10 of 10 without, 0 of 10 with"


def in_a_streams_order(bench: Bench) -> str:
    """Memory of a stream's pool: freed in the stream's order, without a wait."""
    try:
        handle = bench.device.allocate(MIB, stream=bench.first, manager=bench.manager)
    except CUDAError as error:
        raise NotHere(str(error)) from None
    with bench.line.submission() as work:
        work.fill(handle, 3)  # type: ignore[attr-defined]
    handle.close()
    expect(handle.close(timeout=SOON), "freed")
    return "cuMemAllocAsync and cuMemFreeAsync"


def exports(bench: Bench) -> str:
    """DLPack of device memory: exported, taken again, given back once; streams made to wait."""
    memory = bench.memory(4096)
    imported = _there_and_back(bench, memory)
    expect(not memory.close(), "what was exported is held")
    expect(imported.close(timeout=SOON), "given back")
    expect(memory.close(timeout=SOON), "and then freed")
    return "device memory there and back, streams ordered"


def _there_and_back(bench: Bench, memory: Handle[Memory]) -> Handle[dlpack.Imported]:
    with bench.line.submission() as work:
        work.fill(memory, 9)  # type: ignore[attr-defined]
    expect(bench.line.wait(SOON), "filled")
    with memory.lease() as it:
        tensor = it.tensor(memory, shape=(32, 32), dtype="<f4", stream=bench.line)
    expect(tensor.__dlpack_device__() == (2, bench.device.ordinal), "it says its device")
    expect(tensor.__cuda_array_interface__["stream"] == bench.line.number, "and its stream")
    refused(AttributeError, lambda: tensor.__array_interface__, "device memory for the host")
    ask: Any = tensor.__dlpack__
    refused(dlpack.DLPackError, lambda: ask(stream=0, max_version=(1, 0)), "stream 0")
    refused(dlpack.DLPackError, lambda: ask(dl_device=(1, 0), max_version=(1, 0)), "another device")
    with held_up(bench.line) as gate:
        ask(stream=-1, max_version=(1, 0))
        expect(bench.other.stream.query(), "with stream=-1 the consumer does not wait")
        ask(stream=bench.other.number, max_version=(1, 0))
        time.sleep(0.02)
        expect(not bench.other.stream.query(), "the consumer's stream waits for the producer's")
        gate.open()
        eventually(bench.other.stream.query, "the consumer's stream went on")
    imported = dlpack.from_dlpack(tensor, manager=bench.manager, stream=bench.other.number)
    with imported.lease() as there:
        expect(there.address == tensor.address, "the same address")
        expect((there.shape, there.dtype) == ((32, 32), tensor.dtype), "the same shape and type")
        refused(dlpack.DLPackError, lambda: there.array(imported), "an array of device memory")
    return imported


def balance(bench: Bench) -> str:
    """Ten thousand retirements on four threads balance to zero."""
    released: list[int] = []
    streams = [bench.device.stream(manager=bench.manager) for _ in range(4)]

    def work(stream: Handle[Any]) -> None:
        line = timeline(stream, name="busy")
        for number in range(2500):
            handle = bench.manager.register(
                number, "token", release=released.append, release_on=ANY_THREAD, unique=False
            )
            with line.submission() as submission:
                submission.use(handle)
            handle.close()
            if number % 16 == 0:
                line.poll()
        expect(line.wait(SOON), "all ended")

    failures: list[BaseException] = []

    def run(stream: Handle[Any]) -> None:
        try:
            work(stream)
        except BaseException as error:
            failures.append(error)

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    for stream in streams:
        stream.close()
    eventually(lambda: len(released) == 10_000, "all were released")
    return f"10 000 of 10 000 released, {took:.2f} s"


def costs(bench: Bench) -> str:
    """What a submission costs beside the bare event."""
    number = 2000
    handle = bench.manager.register(0, "token", release=int, release_on=ANY_THREAD, unique=False)
    stream = bench.line.stream

    def bare() -> float:
        began = time.perf_counter()
        create, record, query, destroy = map(
            _driver.function, ("cuEventCreate", "cuEventRecord", "cuEventQuery", "cuEventDestroy_v2")
        )
        for _ in range(number):
            event = ctypes.c_void_p()
            create(ctypes.byref(event), 2)
            record(event, stream.number)
            query(event)
            destroy(event)
        return (time.perf_counter() - began) / number * 1e6

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(number):
            with bench.line.submission() as work:
                work.use(handle)
            bench.line.poll()
        took = (time.perf_counter() - began) / number * 1e6
        expect(bench.line.wait(SOON), "all ended")
        return took

    with bench.device.current():
        bares, ourses = [], []
        for _ in range(5):
            bares.append(bare())
            ourses.append(ours())
    handle.close()
    raw_cost, cost = sorted(bares)[2], sorted(ourses)[2]
    return f"submission with one use {cost:.1f} us, bare event {raw_cost:.1f} us"
