"""All of this on a device, as a table: ``python -m lifecycle.integrations.cuda.check``.

It needs the driver alone, takes well under two minutes, and tries PyTorch, CuPy and Numba where they are
installed. It ends with 0 where everything held, with 1 where something did not, and with 2 where there is no
device.

A stream is held up by a function of the C library that waits for a semaphore (`Gate`), so that what is
pending is pending for as long as a check wants, on a device of any speed.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import structlog

from lifecycle import ANY_THREAD, Handle, ObjectState, SafetyConfig, SafetyManager
from lifecycle.errors import AccessRefusedError, LifecycleError
from lifecycle.integrations import dlpack
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.devices import Device, device
from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.integrations.cuda.memory import Memory, borrow
from lifecycle.integrations.cuda.streams import CUDAFence, CUDATimeline, Stream, stream_of, timeline
from lifecycle.integrations.gpu.errors import TransferError

__all__ = ["main"]

LIMIT: Final = 110
"""Seconds after which everything is given up, with the stacks of all threads."""
SOON: Final = 20.0
MIB: Final = 1 << 20


class NotHere(Exception):
    """A check cannot be made on this machine."""


class Gate:
    """Holds a stream up until it is opened."""

    def __init__(self, of: Any) -> None:
        libc = ctypes.CDLL(None)
        # A semaphore of the C library is at most 64 bytes; the device's thread may look at it after us.
        self._semaphore = ctypes.create_string_buffer(256)
        _kept.append(self._semaphore)
        self._at = ctypes.addressof(self._semaphore)
        libc.sem_init(ctypes.c_void_p(self._at), 0, 0)
        self._post = libc.sem_post
        wait = ctypes.cast(libc.sem_wait, ctypes.c_void_p)
        stream = stream_of(of)
        step = partial(_driver.function("cuLaunchHostFunc"), stream.number, wait, self._at)
        _driver.checked(_driver.run_in(stream.context, step), "a stream was to be held up")
        self.opened: bool = False

    def open(self) -> None:
        """Let the stream go on."""
        if not self.opened:
            self.opened = True
            self._post(ctypes.c_void_p(self._at))


_kept: list[Any] = []


@contextmanager
def held_up(of: Any) -> Iterator[Gate]:
    """A stream that stands still for a block, or until the gate is opened in it."""
    gate = Gate(of)
    try:
        yield gate
    finally:
        gate.open()


def expect(condition: object, what: str) -> None:
    """Fail the check unless `condition` is true."""
    if not condition:
        raise AssertionError(what)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Fail the check unless `condition` becomes true soon."""
    until = time.monotonic() + SOON
    while not condition():
        expect(time.monotonic() < until, f"not so within {SOON:.0f} s: {what}")
        time.sleep(0.0005)


def refused(kind: type[BaseException], call: Callable[[], object], what: str) -> None:
    """Fail the check unless ``call()`` raises an exception of `kind`."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"not refused: {what}")


class Bench:
    """What every check has: a device, a manager, two streams with their timelines."""

    def __init__(self) -> None:
        self.device: Device = device(0)
        patient = SafetyConfig(finalizer_timeout=SOON, shutdown_timeout=SOON)
        self.manager: SafetyManager = SafetyManager(patient, name="cuda-check")
        self.first: Handle[Stream] = self.device.stream(name="first", manager=self.manager)
        self.second: Handle[Stream] = self.device.stream(name="second", manager=self.manager)
        self.line: CUDATimeline = timeline(self.first, name="first")
        self.other: CUDATimeline = timeline(self.second, name="second")

    def memory(self, nbytes: int) -> Handle[Memory]:
        """Memory of the device."""
        return self.device.allocate(nbytes, manager=self.manager)

    def pinned(self, nbytes: int) -> Handle[Memory]:
        """Pinned memory of the host."""
        return self.device.pinned(nbytes, manager=self.manager)

    def view(self, handle: Handle[Memory]) -> memoryview:
        """Pinned memory, as bytes."""
        with handle.lease() as memory:
            return memory.view(handle)

    def read(self, handle: Handle[Memory], nbytes: int) -> bytes:
        """What a device's memory has in it."""
        host = self.pinned(nbytes)
        with self.line.submission() as work:
            work.copy(host, handle, nbytes)  # type: ignore[attr-defined]
        expect(self.line.wait(SOON), "a copy to the host ended")
        found = bytes(self.view(host))
        host.close()
        return found

    def close(self) -> str:
        """Close all of it; what was left, in words."""
        self.line.wait(SOON)
        self.other.wait(SOON)
        del self.line, self.other
        self.first.close()
        self.second.close()
        gc.collect()
        report = self.manager.close(timeout=SOON)
        return "" if report.ok else str(report)


# -- the checks ----------------------------------------------------------------------------------------------


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


def forked(bench: Bench) -> str:
    """In a forked child every timeline is empty and nothing native is called; the parent goes on."""
    if not hasattr(os, "fork"):
        raise NotHere("no fork on this system")
    memory = bench.memory(4096)
    with held_up(bench.line) as gate:
        with bench.line.submission() as work:
            work.fill(memory, 1)  # type: ignore[attr-defined]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                refused(CUDAError, lambda: bench.memory(16), "memory in a child")
                code = 0 if bench.line.in_flight == 0 and bench.line.poll() == 0 else 3
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        gate.open()
    expect(os.waitstatus_to_exitcode(status) == 0, f"the child ended with {status}")
    expect(bench.line.wait(SOON) and memory.close(timeout=SOON), "the parent's submission ended")
    return "empty in the child, whole in the parent"


def lost(bench: Bench) -> str:
    """A kernel that writes where it may not: the fence is lost, what was used is orphaned, never freed. In a
    process of its own, since its context is gone after that."""
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle.integrations.cuda.check", "--crash"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode == 3:
        raise NotHere(last[0])
    expect(done.returncode == 0, f"{done.returncode}: {last[0]} {done.stderr.strip()[-300:]}")
    return last[0]


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


# -- other libraries -----------------------------------------------------------------------------------------


def module(name: str) -> Any:
    """A library, or the words that it is not here."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} is not installed ({error})") from None


def with_torch(bench: Bench) -> str:
    """PyTorch: its streams, its tensors, and ours in its hands."""
    torch = module("torch")
    if not torch.cuda.is_available():
        raise NotHere("this PyTorch has no CUDA")
    stream = torch.cuda.Stream()
    line = timeline(stream, name="torch")
    source = torch.arange(1024, device="cuda", dtype=torch.float32)
    _ = source * 2  # a kernel is loaded at its first call, and that waits for every stream that stands still
    torch.cuda.synchronize()
    frame = borrow(source, manager=bench.manager)
    with frame.lease() as memory:
        expect(memory.address == source.data_ptr() and memory.nbytes == 4096, "the same memory")
    with held_up(line) as gate:
        with torch.cuda.stream(stream), line.submission() as work:
            work.use(frame)
            target = source * 2
        frame.close()
        del source
        expect(line.poll() == 0, "in flight")
        gate.open()
    expect(line.wait(SOON), "ended")
    torch.cuda.synchronize()
    expect(target[3].item() == 6.0, "the right numbers")
    default = timeline(torch.cuda.current_stream(), name="torch, default")
    with default.submission():
        target += 1
    expect(default.wait(SOON), "the default stream too")

    ours = bench.memory(4096)
    with bench.line.submission() as work:
        work.fill(ours, 0)  # type: ignore[attr-defined]
    with ours.lease() as memory:
        tensor = torch.from_dlpack(memory.tensor(ours, dtype="<f4", stream=bench.line))
    expect(tensor.sum().item() == 0.0 and tensor.data_ptr() != 0, "torch reads our memory")
    expect(not ours.close(), "held by torch")
    del tensor
    expect(ours.close(timeout=SOON), "freed once torch let it go")
    imported = dlpack.from_dlpack(target, manager=bench.manager)
    expect(imported.close(timeout=SOON), "a tensor of torch, taken and given back")
    return f"torch {torch.__version__}"


def with_cupy(bench: Bench) -> str:
    """CuPy, likewise."""
    cupy = module("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    line = timeline(stream, name="cupy")
    source = cupy.arange(1024, dtype=cupy.float32)
    _ = source * 2  # loaded here, as with PyTorch
    cupy.cuda.Device().synchronize()
    frame = borrow(source, manager=bench.manager)
    with held_up(line) as gate:
        with stream, line.submission() as work:
            work.use(frame)
            target = source * 2
        frame.close()
        expect(line.poll() == 0, "in flight")
        gate.open()
    expect(line.wait(SOON) and float(target[3]) == 6.0, "the right numbers")
    ours = bench.memory(4096)
    with bench.line.submission() as work:
        work.fill(ours, 0)  # type: ignore[attr-defined]
    with ours.lease() as memory:
        tensor = memory.tensor(ours, dtype="<f4", stream=bench.line)
    array = cupy.asarray(tensor)
    expect(float(array.sum()) == 0.0, "cupy reads our memory by the array interface")
    del array, tensor
    expect(ours.close(timeout=SOON), "freed")
    imported = dlpack.from_dlpack(target, manager=bench.manager)
    expect(imported.close(timeout=SOON), "an array of cupy, taken and given back")
    return f"cupy {cupy.__version__}"


def with_numba(bench: Bench) -> str:
    """Numba, likewise."""
    numba = module("numba.cuda")
    if not numba.is_available():
        raise NotHere("this Numba has no CUDA")
    numpy = module("numpy")
    stream = numba.stream()
    line = timeline(stream, name="numba")
    source = numba.to_device(numpy.arange(1024, dtype="f4"), stream=stream)
    frame = borrow(source, stream=line, manager=bench.manager)
    with held_up(line) as gate:
        with line.submission() as work:
            work.use(frame)
        frame.close()
        expect(line.poll() == 0, "in flight")
        gate.open()
    expect(line.wait(SOON), "ended")
    ours = bench.memory(4096)
    with bench.line.submission() as work:
        work.fill(ours, 0)  # type: ignore[attr-defined]
    expect(bench.line.wait(SOON), "filled")
    with ours.lease() as memory:
        array = numba.as_cuda_array(memory.tensor(ours, dtype="<f4", stream=bench.line))
    expect(float(array.copy_to_host().sum()) == 0.0, "numba reads our memory by the array interface")
    del array
    gc.collect()
    expect(ours.close(timeout=SOON), "freed")
    return "numba"


CHECKS: Final[tuple[Callable[[Bench], str], ...]] = (
    the_device,
    owned_memory,
    dropped_memory,
    copies,
    in_flight,
    exclusive_use,
    fences_elsewhere,
    in_order,
    across_streams,
    torn_reads,
    in_a_streams_order,
    exports,
    balance,
    forked,
    lost,
    costs,
    with_torch,
    with_cupy,
    with_numba,
)

CRASH: Final = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry crash()
{
    .reg .b64 %a;
    .reg .b32 %v;
    mov.u64 %a, 16;
    mov.u32 %v, 1;
    st.global.u32 [%a], %v;
    ret;
}
"""


def crash() -> int:
    """The other half of `lost`."""
    bench = Bench()
    program, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    context = bench.device.context
    code = _driver.run_in(
        context, partial(_driver.function("cuModuleLoadData"), ctypes.byref(program), CRASH)
    )
    if code:
        print(f"no kernel can be loaded here: {_driver.name_of(code)}")
        return 3
    code = _driver.run_in(
        context, partial(_driver.function("cuModuleGetFunction"), ctypes.byref(kernel), program, b"crash")
    )
    _driver.checked(code, "cuModuleGetFunction")
    freed: list[object] = []
    used = bench.manager.register(1, "token", release=freed.append, release_on=ANY_THREAD, unique=False)
    unused = bench.manager.register(2, "token", release=freed.append, release_on=ANY_THREAD, unique=False)
    with bench.line.submission() as work:
        work.use(used)
        launch = partial(
            _driver.function("cuLaunchKernel"),
            kernel, 1, 1, 1, 1, 1, 1, 0, bench.line.number, None, None,
        )  # fmt: skip
        _driver.checked(_driver.run_in(context, launch), "cuLaunchKernel")
    until = time.monotonic() + SOON
    while bench.line.in_flight and time.monotonic() < until:
        bench.line.poll()
    problem = ""
    if used.state is not ObjectState.ORPHANED:
        problem = f"not orphaned: {used!r}"
    elif not unused.close() or freed != [2]:
        problem = f"what was not used was not released: {freed}"
    elif bench.line.lost_submissions != 1:
        problem = f"lost submissions: {bench.line.lost_submissions}"
    print(problem or f"orphaned, not freed: {used!r}".partition("begun")[0])
    sys.stdout.flush()
    # Nothing can be tidied in a context that is gone.
    os._exit(1 if problem else 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lifecycle.integrations.cuda.check", description=__doc__)
    parser.add_argument("--crash", action="store_true", help="the other half of the check «lost»")
    parser.add_argument("names", nargs="*", metavar="CHECK", help=", ".join(one.__name__ for one in CHECKS))
    asked = parser.parse_args(arguments)
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    # What is dropped on purpose is reported; the table is for itself.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        if asked.crash:
            return crash()
        bench = Bench()
    except CUDAError as error:
        print(f"not run: {error}")
        return 2
    print(f"{'check':<20} {'':<7} {'ms':>7}  what was seen")
    failed = 0
    for one in CHECKS:
        if asked.names and one.__name__ not in asked.names:
            continue
        began = time.perf_counter()
        try:
            said, verdict = one(bench), "ok"
        except NotHere as error:
            said, verdict = str(error), "not run"
        except Exception as error:
            said, verdict = f"{type(error).__name__}: {error}", "FAILED"
            failed += 1
            bench.line.wait(1.0)
            bench.other.wait(1.0)
        took = (time.perf_counter() - began) * 1000
        print(f"{one.__name__:<20} {verdict:<7} {took:>7.0f}  {said}", flush=True)
    left = bench.close()
    verdict = "FAILED" if left else "ok"
    print(f"{'nothing is left':<20} {verdict:<7} {'':>7}  {left or 'the manager closed empty'}")
    faulthandler.cancel_dump_traceback_later()
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
