"""CUDA against a stand-in for the driver that follows its documented contract (`fake_cuda.c`): streams that are
threads, events that are pending, frees that wait. It shows that the adapter keeps to the contract, and nothing of a
device: `python -m lifecycle.integrations.cuda.check` does that."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from lifecycle import ANY_THREAD, AccessRefusedError, HeldError, LifecycleError, SafetyManager
from lifecycle.errors import WrongContextError
from lifecycle.integrations.cuda import (
    CUDAError,
    CUDAFence,
    Device,
    TransferError,
    _driver,
    borrow,
    device,
    devices,
    stream_of,
    timeline,
)
from lifecycle.integrations.cuda.check.bench import held_up
from lifecycle.integrations.dlpack import DLPackError, from_dlpack, tensor
from lifecycle.testing import each_interrupt
from tests.core.adversary import STORM
from tests.support import ROOT, eventually, run_python

STEP = 1 if STORM >= 10 else 29


def compiler() -> str | None:
    named = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    return next((path for name in (named, "cc", "gcc", "clang") if (path := shutil.which(name))), None)


CC = compiler()
pytestmark = pytest.mark.skipif(
    CC is None or sys.platform != "linux",
    reason="needs a C compiler on Linux: the stand-in is built by the test",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    source = ROOT / "tests" / "cuda" / "fake_cuda.c"
    assert CC is not None
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([CC, *flags, "-o", library, source], check=True, timeout=120)
    return str(library)


@pytest.fixture(scope="module")
def fake(built: str) -> Iterator[Any]:
    """The stand-in in the place of the driver, for this module."""
    names, _driver.NAMES = _driver.NAMES, (built,)
    _driver.library.cache_clear()
    _driver._function.cache_clear()
    devices._devices.clear()
    yield _driver.library()
    gc.collect()
    _driver.NAMES = names
    _driver.library.cache_clear()
    _driver._function.cache_clear()
    devices._devices.clear()


@pytest.fixture
def gpu(fake: Any) -> Iterator[Device]:
    """The device. At the end the stand-in has met no misuse, all its memory is free, and no event is left."""
    made = device(0)
    before, misuses = made.memory()[0], fake.fake_misuses()
    yield made
    gc.collect()
    eventually(lambda: made.memory()[0] == before)
    assert fake.fake_misuses() == misuses
    CUDAFence(stream_of(1, context=made.context)).delete()  # destroys what was dropped
    assert fake.fake_events() == 0
    assert not made.here(), "a context was left current"


def test_all_of_the_check_holds_against_the_stand_in(built: str) -> None:
    """As it is run on a device; what it needs other libraries for is not run, and says so."""
    done = run_python(
        """
        import sys
        from lifecycle.integrations.cuda import _driver, check
        sys.exit(check.main(["the_device", "owned_memory", "copies", "in_flight", "exclusive_use", "fences_elsewhere",
                             "in_order", "across_streams", "in_a_streams_order", "exports", "forked", "lost",
                             "with_torch", "with_cupy"]))
        """,
        env={"LD_LIBRARY_PATH": os.path.dirname(built)},
    )
    rows = {line.split()[0]: line for line in done.check().splitlines()[1:]}
    assert "a stand-in" in rows["the_device"]
    assert "orphaned" in rows["lost"]
    here = {name for name, line in rows.items() if " ok " in f"{line} "}
    assert {"owned_memory", "copies", "in_flight", "exports", "forked", "lost", "nothing"} <= here
    assert not [line for line in rows.values() if "FAILED" in line]
    assert "fake cuda" not in done.stderr


def test_without_a_driver_it_says_so() -> None:
    done = run_python(
        """
        import sys
        from lifecycle.integrations.cuda import _driver, check
        _driver.NAMES = ("libcuda-that-is-not-there.so.1",)
        sys.exit(check.main([]))
        """
    )
    assert done.rc == 2
    assert done.stdout.startswith("not run: there is no CUDA driver (libcuda-that-is-not-there.so.1")


def test_what_a_stream_uses_is_freed_when_it_has_come_so_far(gpu: Device, manager: SafetyManager) -> None:
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    memory, host = gpu.allocate(4096, manager=manager), gpu.pinned(4096, manager=manager)
    with host.lease() as it:
        it.view(host)[:] = b"\x07" * 4096
    with held_up(line) as gate:
        with line.submission() as work:
            work.copy(memory, host)  # type: ignore[attr-defined]
        assert not memory.close(timeout=0)
        assert not host.close()
        assert line.poll() == 0
        assert not work.done
        with pytest.raises(AccessRefusedError):
            memory.lease()
        gate.open()
        assert memory.close(timeout=20)
        assert host.close(timeout=20)
    assert work.done
    assert line.in_flight == 0
    stream.close()


def test_the_stream_lives_as_long_as_its_timeline(gpu: Device, manager: SafetyManager) -> None:
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    assert not stream.close()
    with line.submission():
        pass
    assert line.wait(20)
    del line
    assert stream.close(timeout=20)


@pytest.mark.parametrize("kind", ["torch", "cupy", "numba", "protocol", "address"])
def test_streams_of_other_libraries(gpu: Device, manager: SafetyManager, kind: str) -> None:
    """The attributes that they document, as stand-ins have them."""
    own = gpu.stream(manager=manager)
    with own.lease() as it:
        number = it.number
    theirs: Any = {
        "torch": SimpleNamespace(cuda_stream=number, device=SimpleNamespace(index=0, type="cuda")),
        "cupy": SimpleNamespace(ptr=number, device_id=0),
        "numba": SimpleNamespace(handle=ctypes.c_void_p(number)),
        "protocol": SimpleNamespace(__cuda_stream__=lambda: (0, number)),
        "address": number,
    }[kind]
    found = stream_of(theirs)
    assert (found.number, found.context) == (number, gpu.context)
    line = timeline(theirs)
    with held_up(line):
        with line.submission() as work:
            pass
        assert line.poll() == 0
    assert line.wait(20)
    assert work.done
    own.close()


def test_the_default_stream_is_of_the_context_that_is_current(gpu: Device) -> None:
    with pytest.raises(CUDAError, match=r"none is on this thread.*device\(0\)\.current\(\)"):
        timeline(1)
    with gpu.current():
        line = timeline(1)
    with line.submission():
        pass
    assert line.wait(20)
    of_torch: Any = SimpleNamespace(cuda_stream=0, device=SimpleNamespace(index=0))
    assert stream_of(of_torch).context == gpu.context


@pytest.mark.parametrize(
    "bad",
    [
        *(None, "stream", -1, True, object(), SimpleNamespace(x=1), SimpleNamespace(ptr="x")),
        # Cut off to 64 bits these would be the default stream.
        *(1 << 64, SimpleNamespace(ptr=1 << 70), SimpleNamespace(ptr=-1)),
        *(SimpleNamespace(__cuda_stream__=said) for said in (0, (0,), lambda: None, (0, "x"), (0, -5))),
    ],
)
def test_what_is_no_stream_is_refused(gpu: Device, bad: Any) -> None:
    with pytest.raises(CUDAError):
        timeline(bad)


def test_ranges_are_refused_before_the_call(gpu: Device, manager: SafetyManager) -> None:
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    memory, host = gpu.allocate(100, manager=manager), gpu.pinned(50, manager=manager)
    with line.submission() as work:
        todo: Any = work
        calls: list[Any] = [
            lambda: todo.copy(memory, host, 51),
            lambda: todo.copy(memory, host, to_offset=51),
            lambda: todo.copy(memory, host, from_offset=51),
            lambda: todo.copy(memory, host, -1),
            lambda: todo.copy(memory, host, 1.0),
            lambda: todo.copy(memory, host, True),
            lambda: todo.copy(memory, stream),
            lambda: todo.fill(memory, 256),
            lambda: todo.fill(memory, -1),
            lambda: todo.fill(memory, 0, 101),
            lambda: todo.fill(memory, 0, offset=101),
        ]
        for call in calls:
            with pytest.raises(TransferError):
                call()
        todo.copy(memory, host, 0)
        todo.copy(memory, host, to_offset=50)
    assert line.wait(20)
    for size in (0, -1, 1.5, True, 1 << 50):
        with pytest.raises(TransferError):
            gpu.allocate(size, manager=manager)  # type: ignore[arg-type]
    with pytest.raises(CUDAError, match="CUDA_ERROR_OUT_OF_MEMORY") as told:
        gpu.allocate(1 << 40, manager=manager)
    assert told.value.code == 2
    with memory.lease() as it, pytest.raises(TransferError, match="cannot be read by the host"):
        it.view(memory)
    for handle in (memory, host, stream):
        handle.close()


def test_a_lost_event_orphans_what_its_submission_used(built: str) -> None:
    done = run_python(
        "from lifecycle.integrations.cuda import check; check.main(['--crash'])",
        env={"LD_LIBRARY_PATH": os.path.dirname(built)},
    )
    assert "orphaned, not freed" in done.check()
    assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in done.stdout


def test_a_stream_that_takes_no_event_is_lost_at_once(
    gpu: Device, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a context whose kernel has crashed: its events cannot even be made. Out of memory is no such end."""
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    for code, ends in ((700, True), (2, False)):
        freed: list[object] = []
        handle = manager.register(1, "token", release=freed.append, release_on=ANY_THREAD, unique=False)
        with monkeypatch.context() as patch:
            true = _driver.function
            patch.setattr(
                _driver,
                "function",
                lambda name, c=code: (lambda *a: c) if name == "cuEventCreate" else true(name),
            )
            with line.submission() as work:
                work.use(handle)
            assert line.poll() == ends
        assert line.wait(20)
        assert handle.state == ("orphaned" if ends else "valid")
        assert handle.close() is (not ends)
        assert freed == ([] if ends else [1])
    assert line.lost_submissions == 1
    del line, work
    assert stream.close(timeout=20)


def test_frees_that_need_the_context_wait_for_it(gpu: Device, manager: SafetyManager) -> None:
    freed: list[object] = []
    handle = manager.register(1, "module", release=freed.append, release_on=gpu.queue, unique=False)
    assert not handle.close()
    with pytest.raises(WrongContextError):
        gpu.queue.drain()
    with gpu.current():
        assert gpu.here()
        assert gpu.queue.drain() == 1
    assert freed == [1]


def test_borrowed_memory_keeps_its_array_until_the_stream_has_come_so_far(
    gpu: Device, manager: SafetyManager
) -> None:
    class Array:
        def __init__(self, address: int, **more: Any) -> None:
            self.__cuda_array_interface__ = {
                "shape": (4, 4), "typestr": "<f4", "data": (address, False), "version": 3, **more,
            }  # fmt: skip

        def __del__(self) -> None:
            dropped.append(1)

    dropped: list[int] = []
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    memory = gpu.allocate(64, manager=manager)
    with memory.lease() as it:
        address = it.address
    array = Array(address, stream=line.number)
    frame = borrow(array, manager=manager)
    with held_up(line) as gate:
        with line.submission() as work:
            assert work.use(frame).nbytes == 64
        del array
        assert not frame.close()
        assert not dropped
        gate.open()
        assert frame.close(timeout=20)
    eventually(lambda: dropped)
    for bad in (
        object(),
        Array(address, strides=(4, 16)),
        Array(address, mask=object()),
        Array(0),
        Array(address, shape=(0, 4)),
        Array(address, shape=(-2, -2)),
        Array(address, shape=(4.0,)),
        Array(address, shape=None),
        Array(address, data=address),
        Array(address, data=(1.5, False)),
        Array(address, data=(-address, False)),
        Array(address, data=(1 << 64, False)),
        SimpleNamespace(__cuda_array_interface__=None),
        SimpleNamespace(__cuda_array_interface__={}),
    ):
        with pytest.raises(TransferError):
            borrow(bad, manager=manager)
    with pytest.raises(DLPackError):
        borrow(Array(address, typestr=">f4"), manager=manager)
    readonly = borrow(Array(address, data=(address, True)), manager=manager)
    with line.submission() as work:
        with pytest.raises(TransferError, match="read-only"):
            work.fill(readonly, 0)  # type: ignore[attr-defined]
    assert line.wait(20)
    readonly.close()
    memory.close(timeout=20)
    stream.close()


def test_dlpack_of_device_memory_orders_the_streams(gpu: Device, manager: SafetyManager) -> None:
    first, second = gpu.stream(manager=manager), gpu.stream(manager=manager)
    line, other = timeline(first), timeline(second)
    memory = gpu.allocate(64, manager=manager)
    with memory.lease() as it:
        given = it.tensor(memory, shape=(4, 4), dtype="<f4", stream=line)
        with pytest.raises(TransferError, match="does not have the 80 bytes"):
            it.tensor(memory, shape=(5, 4), dtype="<f4")
    assert given.__dlpack_device__() == (2, 0)
    assert given.__cuda_array_interface__ == {
        "shape": (4, 4), "typestr": "<f4", "data": (given.address, False), "strides": (16, 4), "version": 3,
        "stream": line.number,
    }  # fmt: skip
    assert not hasattr(given, "__array_interface__")
    with held_up(line) as gate:
        for bad in (0, -2, True, "1"):
            with pytest.raises(DLPackError):
                given.__dlpack__(stream=bad, max_version=(1, 0))
        given.__dlpack__(stream=-1, max_version=(1, 0))
        assert other.stream.query()
        given.__dlpack__(stream=other.number, max_version=(1, 0))
        assert not other.stream.query()
        gate.open()
        eventually(other.stream.query)
    imported = from_dlpack(given, manager=manager, stream=other.number)
    del given
    assert not memory.close()
    with imported.lease() as it2, pytest.raises(DLPackError, match="cannot read"):
        it2.array(imported)
    assert imported.close()
    assert memory.close(timeout=20)
    del line, other
    first.close(timeout=20)
    second.close(timeout=20)


def test_a_stream_on_memory_of_the_host_is_refused(manager: SafetyManager, fake: Any) -> None:
    block = ctypes.create_string_buffer(16)
    handle = manager.register(block, "block", release=lambda block: None, release_on=ANY_THREAD)
    with pytest.raises(DLPackError, match="memory of CUDA"):
        tensor(handle, ctypes.addressof(block), shape=(16,), stream=1)
    with pytest.raises(DLPackError, match="memory of CUDA"):
        from_dlpack(tensor(handle, ctypes.addressof(block), shape=(16,)), manager=manager, stream=1)
    handle.close()


def test_interrupts_leave_nothing(gpu: Device, manager: SafetyManager) -> None:
    """At each point of it: no memory, no pin and no event is left, and no context stays current."""
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    before = gpu.memory()[0]

    def run() -> None:
        memory = gpu.allocate(4096, manager=manager)
        with line.submission() as work:
            work.fill(memory, 1)  # type: ignore[attr-defined]
        line.poll()
        memory.close()

    number = 0
    for struck in each_interrupt(run, step=STEP):
        number += 1
        del struck
        assert not gpu.here(), "a context was left current"
    assert number > 10
    gc.collect()
    eventually(lambda: line.poll() is not None and line.in_flight == 0)
    eventually(lambda: gpu.memory()[0] == before)
    del line
    gc.collect()  # what was struck kept its frames in circles
    assert stream.close(timeout=20)


def test_threads_without_a_context(gpu: Device, manager: SafetyManager) -> None:
    """None of them has one, and each allocates, submits, polls and frees."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            stream = gpu.stream(manager=manager)
            line = timeline(stream)
            for number in range(50):
                memory = gpu.allocate(256, manager=manager)
                with line.submission() as submission:
                    submission.fill(memory, number)  # type: ignore[attr-defined]
                memory.close()
            assert line.wait(20)
            del line, submission
            assert stream.close(timeout=20)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_fence_is_deleted_once(gpu: Device, manager: SafetyManager) -> None:
    stream = gpu.stream(manager=manager)
    with stream.lease() as it:
        fence = CUDAFence(it)
    eventually(fence.signalled)
    fence.delete()
    fence.delete()
    assert fence.event == 0
    with pytest.raises(CUDAError, match="was deleted"):
        fence.signalled()
    del fence
    assert stream.close(timeout=20)


def test_the_event_of_a_dropped_fence_is_destroyed_by_the_next_one(
    gpu: Device, fake: Any, manager: SafetyManager
) -> None:
    """Also of fences that died in circles, on another thread: the collector calls no driver."""
    stream = gpu.stream(manager=manager)
    line = timeline(stream)

    def drop() -> None:
        for number in range(5):
            circle: list[Any] = [CUDAFence(line.stream)]
            if number % 2:
                circle.append(circle)
        fence = CUDAFence(line.stream)
        assert fake.fake_events() <= 4, "those that died at once, and none of the circles"
        del fence, circle
        gc.collect()

    gc.disable()
    try:
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
    finally:
        gc.enable()
    assert fake.fake_events() == 4
    kept = CUDAFence(line.stream)
    assert fake.fake_events() == 1
    eventually(kept.signalled)
    kept.delete()
    assert fake.fake_events() == 0
    with pytest.raises(TypeError, match="make another fence of its stream"):
        copy.copy(kept)
    del kept, line
    assert stream.close(timeout=20)


def test_interrupts_of_a_fence_leave_no_event(gpu: Device, fake: Any) -> None:
    stream = stream_of(1, context=gpu.context)

    def run() -> None:
        for _ in range(2):
            fence = CUDAFence(stream)
            del fence
        CUDAFence(stream).delete()

    for struck in each_interrupt(run, step=1 if STEP == 1 else 3):
        del struck
        assert not gpu.here(), "a context was left current"
    gc.collect()
    CUDAFence(stream).delete()
    assert fake.fake_events() == 0


def test_a_stream_lives_as_long_as_memory_that_is_freed_in_its_order(
    gpu: Device, manager: SafetyManager
) -> None:
    stream = gpu.stream(manager=manager)
    memory = gpu.allocate(4096, stream=stream, manager=manager)
    assert not stream.close()
    assert memory.close(timeout=20)
    assert stream.close(timeout=20)
    again = SafetyManager(name="again")
    kept = gpu.allocate(4096, stream=gpu.stream(manager=again), manager=again)
    assert again.close(timeout=20).ok
    assert kept.state == "released"


def test_what_is_freed_when_the_driver_has_ended_is_no_failure(
    gpu: Device, fake: Any, manager: SafetyManager
) -> None:
    """The driver ends before Python does, and its memory with it."""
    before = gpu.memory()[0]
    memory, stream = gpu.allocate(4096, manager=manager), gpu.stream(manager=manager)
    with memory.lease() as it:
        address = it.address
    fake.fake_end(1)
    try:
        assert memory.close(timeout=20)
        assert stream.close(timeout=20)
        with pytest.raises(CUDAError) as told:
            gpu.memory()
        assert told.value.code == _driver.DEINITIALIZED
    finally:
        fake.fake_end(0)
    assert (memory.state, stream.state) == ("released", "released")
    assert _driver.run_in(gpu.context, partial(_driver.function("cuMemFree_v2"), address)) == 0
    assert gpu.memory()[0] == before


def test_a_refused_tensor_keeps_nothing(gpu: Device, manager: SafetyManager) -> None:
    memory = gpu.allocate(64, manager=manager)
    with memory.lease() as it, pytest.raises(TransferError) as told:
        it.tensor(memory, shape=(65,))
    assert memory.close(timeout=20), told.value


def test_all_threads_are_given_the_same_queue(gpu: Device) -> None:
    gpu._queues.clear()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(gpu.queue)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(one) for one in found} == {id(gpu.queue)}


@pytest.mark.parametrize("bad", [True, -1, 0.0, "0", None, [0], 7])
def test_what_is_no_device_is_refused(gpu: Device, bad: Any) -> None:
    with pytest.raises(CUDAError):
        device(bad)


def test_every_call_is_refused_in_a_forked_child(built: str) -> None:
    done = run_python(
        """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from lifecycle import SafetyManager
        from lifecycle.integrations.cuda import CUDAError, CUDAFence, _driver, device, stream_of, timeline
        manager = SafetyManager(name="parent")
        gpu = device(0)
        stream = gpu.stream(manager=manager)
        line = timeline(stream)
        memory = gpu.allocate(64, manager=manager)
        fence = CUDAFence(line.stream)
        with line.submission() as work:
            work.use(memory)
        child = os.fork()
        if not child:
            calls = [
                gpu.memory, lambda: gpu.allocate(1), lambda: gpu.pinned(1), gpu.stream, gpu.current().__enter__,
                line.stream.query, line.stream.synchronize, lambda: line.let_wait(1), fence.signalled,
                lambda: CUDAFence(line.stream), lambda: timeline(1), lambda: stream_of(4096),
                lambda: line.submission().__enter__().fill(memory, 0),
            ]
            for number, call in enumerate(calls):
                try:
                    call()
                except Exception as error:
                    if "forked" in str(error):
                        continue
                    print(number, repr(error), flush=True)
                os._exit(number + 1)
            fence.delete()
            del fence
            os._exit(0 if _driver.library().fake_misuses() == 0 and not gpu.here() else 99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        fence.delete()
        assert line.wait(20) and memory.close(timeout=20)
        print("whole")
        """,
        env={"LD_LIBRARY_PATH": os.path.dirname(built)},
    )
    assert "whole" in done.check()
    assert "fake cuda" not in done.stderr


def test_exclusive_use_waits_for_the_device(gpu: Device, manager: SafetyManager) -> None:
    stream = gpu.stream(manager=manager)
    line = timeline(stream)
    memory = gpu.allocate(16, manager=manager)
    with held_up(line) as gate:
        with line.submission() as work:
            work.use(memory)
        with pytest.raises((HeldError, LifecycleError)), memory.exclusive(timeout=0.05):
            pass
        gate.open()
        with memory.exclusive(timeout=20):
            assert work.done
    memory.close(timeout=20)
    del line, work
    assert stream.close(timeout=20)
