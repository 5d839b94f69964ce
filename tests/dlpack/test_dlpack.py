"""DLPack on memory of the host, with real consumers and producers: every export ends once, whoever frees it and
when; every import is given back once; what would be misunderstood is refused."""

from __future__ import annotations

import ctypes
import gc
import importlib
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    BufferPool,
    HeldError,
    LifecycleError,
    ReleaseQueue,
    SafetyManager,
)
from lifecycle._core.exports import exported
from lifecycle._core.timelines import busy
from lifecycle.errors import AccessRefusedError, LimitError, PoolExhaustedError
from lifecycle.integrations.dlpack import (
    DLPackError,
    Imported,
    Tensor,
    _native,
    from_dlpack,
    imports,
    sweep,
    tensor,
)
from lifecycle.lowlevel import Tally, facts, free_threaded
from lifecycle.testing import each_interrupt
from tests.core.adversary import STORM
from tests.support import eventually, run_python

numpy = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("numpy")

NEWER = tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 1)
"""NumPy asks for a version from 2.1 on."""
THOUSANDS = 10_000 if STORM >= 10 else 2_000
STEP = 1 if STORM >= 10 else 11


class Block:
    """Native memory that is poisoned when it is released, and notes how often that was. All of that in C: an
    interrupt in a release is another matter."""

    def __init__(self, nbytes: int = 96) -> None:
        self.memory = ctypes.create_string_buffer(b"\x01" * nbytes, nbytes)
        self.address = ctypes.addressof(self.memory)
        self.count = Tally()
        poison = partial(ctypes.memset, self.address, 0xDD, nbytes)
        self.free: Callable[[], object] = partial(
            list, map(operator.methodcaller("__call__"), (self.count.add, poison))
        )

    @property
    def released(self) -> int:
        return int(self.count)


FREE = operator.methodcaller("free")


class Bench:
    def __init__(self, manager: SafetyManager) -> None:
        self.manager = manager
        self.blocks: list[Block] = []

    def block(self, **facts: Any) -> tuple[Any, Block]:
        block = Block()
        self.blocks.append(block)
        facts = {"release": FREE, "release_on": ANY_THREAD, **facts}
        return self.manager.register(block, "block", **facts), block

    def tensor(self, **facts: Any) -> tuple[Any, Block, Tensor]:
        handle, block = self.block()
        return handle, block, tensor(handle, block.address, **{"shape": (4, 6), "dtype": "<f4", **facts})


@pytest.fixture
def bench(manager: SafetyManager) -> Iterator[Bench]:
    """At the end each block was released once, and no export is out. Where an interrupt was planted inside a
    release, ahead of the call, that release failed and is counted as such: its block, and none besides."""
    made = Bench(manager)
    yield made
    gc.collect()

    def unreleased() -> int:
        sweep()
        return sum(block.released == 0 for block in made.blocks)

    eventually(lambda: unreleased() <= manager.stats().failed, timeout=3)
    assert max((block.released for block in made.blocks), default=0) <= 1
    if manager.stats().failed:
        exported.clear()  # an import that was never given back keeps its export, which the next test must not see
    eventually(lambda: sweep() or not any(exported.values()), timeout=3)


def versioned(given: Tensor) -> Any:
    return given.__dlpack__(max_version=(1, 0))


# -- exports -------------------------------------------------------------------------------------------------


def test_the_consumer_holds_the_object_until_it_frees_the_memory(bench: Bench) -> None:
    handle, block, given = bench.tensor(readonly=False)
    array = numpy.from_dlpack(given)
    assert (array.shape, array.dtype) == ((4, 6), numpy.float32)
    assert array.ctypes.data == block.address
    handle.expect_holders(views=1, exports=1)
    with pytest.raises(HeldError, match=r"1 export.*an export by DLPack made at test_dlpack\.py"):
        handle.expect_holders(views=1)
    del given
    handle.expect_holders(exports=1)
    part = array[1:, 2:]
    del array
    assert not handle.close()
    with pytest.raises(AccessRefusedError):
        handle.lease()
    assert (part.view("u1") == 1).all()
    del part
    assert handle.close()
    assert block.released == 1


@pytest.mark.parametrize("place", ["any thread", "background", "queue"])
def test_close_sees_what_its_own_object_has_out(bench: Bench, place: str) -> None:
    """Though nobody else has looked meanwhile."""
    queue = ReleaseQueue("mine", thread="current")
    on: Any = {"any thread": ANY_THREAD, "background": BACKGROUND, "queue": queue}[place]
    for how in ({}, {"held": "refuse"}, {"timeout": 0}, {"timeout": 20}):
        handle, block = bench.block(release_on=on)
        array = numpy.from_dlpack(tensor(handle, block.address, shape=(96,), readonly=NEWER is not False))
        if how == {"held": "refuse"}:
            with pytest.raises(HeldError, match="export"):
                handle.close(held="refuse")
        del array
        released = handle.close(**how)
        if place == "background" and how == {"timeout": 0}:
            eventually(lambda: block.released)
        else:
            assert released
        queue.drain()


def test_whoever_waits_looks(bench: Bench) -> None:
    """`close(timeout=)`, `exclusive`, `detach`, a drain, and a registration at its limit."""
    handle, block, given = bench.tensor(readonly=False)
    arrays = [numpy.from_dlpack(given)]
    del given
    with pytest.raises(LifecycleError), handle.exclusive(timeout=0.02):
        pass
    threading.Timer(0.05, arrays.clear).start()
    with handle.exclusive(timeout=20):
        assert not arrays
    arrays.append(numpy.from_dlpack(tensor(handle, block.address, shape=(96,), readonly=False)))
    threading.Timer(0.05, arrays.clear).start()
    assert handle.close(timeout=20)

    handle, block, given = bench.tensor(readonly=False)
    array = numpy.from_dlpack(given)
    del given
    with pytest.raises(HeldError, match="export"):
        handle.detach()
    del array
    handle.detach().free()

    bench.manager.policy("limited", max_live=1)
    for _ in range(3):
        block = Block()
        bench.blocks.append(block)
        handle = bench.manager.register(block, "limited", release=FREE, release_on=ANY_THREAD)
        array = numpy.from_dlpack(tensor(handle, block.address, shape=(96,), readonly=False))
        handle.close()
        with pytest.raises(LimitError):
            bench.manager.register(Block(), "limited", release=FREE, release_on=ANY_THREAD)
        del array


def test_the_managers_thread_looks_where_nobody_waits(bench: Bench) -> None:
    handle, block, given = bench.tensor(readonly=False)
    array = numpy.from_dlpack(given)
    del given, handle
    assert not block.released
    del array
    eventually(lambda: block.released)
    assert not any(type(one).__name__ == "_Exports" for one in busy.values())


def test_a_pool_lends_again_what_a_consumer_has_freed(manager: SafetyManager) -> None:
    """At once, and while it waits."""
    pool = BufferPool(manager, 64, 1, exhausted="refuse", name="frames")
    arrays: list[Any] = []
    for number in range(6):
        loan = pool.get(timeout=20 if number % 2 or free_threaded else 0)
        assert loan.native
        arrays.append(numpy.from_dlpack(tensor(loan, loan.native, shape=(64,), readonly=False)))
        loan.close()
        with pytest.raises(PoolExhaustedError):
            pool.get()
        if number % 2:
            arrays.clear()  # the next one is there at once
        else:
            threading.Timer(0.05, arrays.clear).start()  # the next one waits
    pool.close()


def test_thousands_end_once(bench: Bench) -> None:
    handle, block = bench.block()
    for _ in range(THOUSANDS):
        numpy.from_dlpack(tensor(handle, block.address, shape=(4, 6), dtype="f4", readonly=False))
    sweep()
    handle.expect_holders()
    kept = [numpy.from_dlpack(tensor(handle, block.address, shape=(96,), readonly=False)) for _ in range(500)]
    assert sweep() == 0
    handle.expect_holders(exports=500)
    del kept[::2]
    handle.expect_holders(exports=250, timeout=20)  # who counts looks, and so does the manager's thread
    del kept
    assert handle.close()


def test_capsules_that_nobody_consumed_are_found(bench: Bench) -> None:
    handle, _, given = bench.tensor(readonly=False)
    capsules = [versioned(given) for _ in range(100)] + [given.__dlpack__() for _ in range(100)]
    assert sweep() == 0
    handle.expect_holders(views=1, exports=200)
    del capsules[:50]
    handle.expect_holders(views=1, exports=150, timeout=20)
    kept = capsules.pop()
    del capsules, given
    assert not handle.close()
    del kept
    assert handle.close()


def test_a_capsule_that_was_taken_back_cannot_be_consumed(bench: Bench) -> None:
    """Not even by who got hold of it behind everybody's back."""
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    # Out of the table, so that nobody but this test looks at it.
    export = exported[facts(handle).id].popitem()[1]
    assert not export.over()
    del capsule
    assert export.over()
    assert export.over()
    with pytest.raises(DLPackError, match="used already"):
        from_dlpack(export.capsule, manager=bench.manager)  # type: ignore[attr-defined]
    export.ended()
    del export, given
    assert handle.close()


def test_a_consumer_that_renames_and_forgets_frees_by_the_deleter_alone(bench: Bench) -> None:
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    at = _native.struct_of(capsule, True, False)
    _native.set_name(capsule, _native.USED_VERSIONED)
    del capsule, given
    assert not handle.close()
    assert sweep() == 0
    _native.Deleter(_native.DELETER)(at)
    assert handle.close()


@pytest.mark.parametrize("readonly", [False, True])
def test_read_only_is_said_or_refused(bench: Bench, readonly: bool) -> None:
    handle, _, given = bench.tensor(readonly=readonly)
    if readonly:
        with pytest.raises(DLPackError, match=r"read-only.*max_version") as told:
            given.__dlpack__()
        assert isinstance(told.value, BufferError)
        with pytest.raises(DLPackError):
            given.__dlpack__(max_version=(0, 8))
    else:
        given.__dlpack__()
    if NEWER or not readonly:
        array = numpy.from_dlpack(given)
        assert array.flags.writeable is not readonly or not NEWER
        del array
    array = numpy.asarray(given)
    assert array.flags.writeable is not readonly
    assert array[3, 5].view("u4") == 0x01010101
    del given
    assert not handle.close()
    del array
    eventually(handle.close)


def test_strides_and_shapes(bench: Bench) -> None:
    handle, block = bench.block()
    whole = numpy.frombuffer(block.memory, "u1")
    whole[:] = range(96)
    for shape, strides in (
        ((8, 12), None),
        ((4, 6), (24, 2)),
        ((6, 4), (1, 12)),
        ((3, 96), (0, 1)),
        ((0, 5), None),
        ((), None),
    ):
        given = tensor(handle, block.address, shape=shape, strides=strides, readonly=False)
        expected = numpy.lib.stride_tricks.as_strided(whole, shape, given.strides)
        assert (numpy.from_dlpack(given) == expected).all()
        assert (numpy.asarray(given) == expected).all()
    many = (1,) * 40
    assert numpy.from_dlpack(tensor(handle, block.address, shape=many, readonly=False)).ndim == 40
    del given, whole
    assert handle.close()


@pytest.mark.parametrize(
    "dtype",
    [
        "?",
        "i1",
        "u1",
        "<i2",
        "u2",
        "i4",
        "<u4",
        "i8",
        "u8",
        "f2",
        "f4",
        "<f8",
        "c8",
        "c16",
        numpy.dtype("f4"),
    ],
)
def test_types(bench: Bench, dtype: Any) -> None:
    handle, block = bench.block()
    array = numpy.from_dlpack(tensor(handle, block.address, shape=(2,), dtype=dtype, readonly=False))
    assert array.dtype == numpy.dtype(dtype)
    del array
    assert handle.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"dtype": ">f4"},
        {"dtype": numpy.dtype(">i2")},
        {"dtype": "O"},
        {"dtype": "S4"},
        {"dtype": "M8[s]"},
        {"dtype": "f16"},
        {"dtype": "i3"},
        {"dtype": numpy.dtype([("a", "f4")])},
        {"dtype": None},
        {"dtype": ""},
        {"shape": [4]},
        {"shape": 4},
        {"shape": (-1,)},
        {"shape": (True,)},
        {"shape": (1.0,)},
        {"shape": (1,) * 59},
        {"shape": (0, 1 << 61, 1 << 61)},
        {"shape": (1 << 61, 0), "strides": (8, 4)},
        {"shape": (1 << 31, 1 << 31)},
        {"dtype": "f\u0664"},
        {"dtype": "<f04"},
        {"strides": (-24, 4)},
        {"strides": (24,)},
        {"strides": (24, 3)},
        {"strides": [24, 4]},
        {"device": (1,)},
        {"device": 1},
        {"device": (-1, 0)},
        {"device": ("cpu", 0)},
    ],
)
def test_what_dlpack_has_no_words_for_is_refused(bench: Bench, bad: dict[str, Any]) -> None:
    handle, _ = bench.block()
    with pytest.raises(DLPackError):
        tensor(handle, bench.blocks[-1].address, **{"shape": (4, 6), "dtype": "<f4", **bad})
    handle.expect_holders()
    handle.close()


@pytest.mark.parametrize("address", [0, -1, 1 << 64, "here", None, True])
def test_what_is_no_address_is_refused(bench: Bench, address: Any) -> None:
    handle, _ = bench.block()
    with pytest.raises(LifecycleError):
        tensor(handle, address, shape=(4,))
    handle.expect_holders()
    handle.close()
    with pytest.raises(AccessRefusedError):
        tensor(handle, 4096, shape=(4,))


def test_questions_of_consumers(bench: Bench) -> None:
    handle, _, given = bench.tensor()
    assert given.__dlpack_device__() == (1, 0)
    ask: Any = given.__dlpack__
    refused: tuple[dict[str, Any], ...] = (
        *({"copy": True}, {"stream": 1}, {"stream": -1}),
        *({"dl_device": device} for device in ((2, 0), 1, (1,), "ab", (1, -1), [2, 0])),
        *({"max_version": version} for version in (1, (), (1,), "ab", (1.5, 0), (-1, 0), b"x0")),
    )
    for bad in refused:
        with pytest.raises(DLPackError):
            ask(**{"max_version": (1, 0), **bad})
    ask(max_version=(2, 7), copy=False, dl_device=(1, 0), stream=None)
    assert not hasattr(given, "__cuda_array_interface__")
    assert repr(given).startswith("<Tensor <f4[4, 6] of block (object")
    with pytest.raises(TypeError, match="make another with tensor"):
        __import__("copy").copy(given)
    del given, ask
    assert handle.close()


def test_an_address_that_looks_like_a_time_is_refused_without_a_version(bench: Bench) -> None:
    handle, _ = bench.block()
    given = tensor(handle, 0x6900_0000, shape=(4,), readonly=False)
    with pytest.raises(DLPackError, match="time"):
        given.__dlpack__()
    versioned(given)
    del given
    assert handle.close()


# -- adversaries ---------------------------------------------------------------------------------------------


def test_interrupts_of_an_export(bench: Bench) -> None:
    number = 0

    def run() -> None:
        handle, block = bench.block()
        given = tensor(handle, block.address, shape=(96,), readonly=False)
        array = numpy.from_dlpack(given)
        del given, array
        sweep()
        handle.close()

    for struck in each_interrupt(run, step=STEP):
        number += 1
        del struck
    assert number > 20


def test_interrupts_of_an_import(bench: Bench) -> None:
    """Given back by whoever has it, each time."""
    number = 0

    def run() -> None:
        handle, block = bench.block()
        given = tensor(handle, block.address, shape=(96,))
        imported = from_dlpack(given, manager=bench.manager)
        del given
        with imported.lease() as it:
            assert it.nbytes == 96
        imported.close()
        handle.close()

    for struck in each_interrupt(run, step=STEP):
        number += 1
        del struck
        assert not imports._taking
    assert number > 20


def test_threads_hand_tensors_to_threads(bench: Bench) -> None:
    """Four export, four take and drop, two sweep."""
    from queue import SimpleQueue

    handed: SimpleQueue[Any] = SimpleQueue()
    failures: list[BaseException] = []
    running = [4]
    each = 300

    def apart(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def give() -> None:
        for _ in range(each):
            handle, block = bench.block()
            handed.put(tensor(handle, block.address, shape=(96,), readonly=False))
            handle.close()
        handed.put(None)

    def take() -> None:
        while (given := handed.get()) is not None:
            array = numpy.from_dlpack(given)
            assert array[0] == 1
            given = None
            assert array[95] == 1
            del array
        running.pop()

    def look() -> None:
        while running[1:]:
            sweep()

    running.append(0)
    running[:] = [0] * 5
    threads = [threading.Thread(target=apart(work)) for work in [give] * 4 + [take] * 4 + [look] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(bench.blocks) == 4 * each


PROGRAM = """
    import atexit, ctypes, os, sys
    import numpy
    from lifecycle import ANY_THREAD, SafetyManager
    from lifecycle.integrations.dlpack import from_dlpack, sweep, tensor
    manager = SafetyManager(name="tensors")
    block = ctypes.create_string_buffer(96)
    freed = []
    def export(**facts):
        handle = manager.register(block, "block", release=freed.append, release_on=ANY_THREAD, unique=False)
        return handle, tensor(handle, ctypes.addressof(block), shape=(96,), readonly=False, **facts)
"""


def test_what_is_left_at_exit_is_freed_without_python() -> None:
    """Arrays that die in the last moments, capsules that nobody took, a deleter that C's `atexit` calls."""
    done = run_python(
        PROGRAM
        + """
    handle, given = export()
    kept = numpy.from_dlpack(given)
    sys.kept = numpy.from_dlpack(given)
    capsule = sys.capsule = given.__dlpack__(max_version=(1, 0))
    sys.other = given.__dlpack__()
    imported = sys.imported = from_dlpack(given, manager=manager)

    # Foreign code that frees as C's atexit does: after the interpreter has ended.
    from lifecycle.integrations.dlpack import _native
    late = given.__dlpack__(max_version=(1, 0))
    at = _native.struct_of(late, True, False)
    _native.set_name(late, _native.USED_VERSIONED)
    ctypes.CDLL(None).__cxa_atexit(
        ctypes.c_void_p(_native.DELETER), ctypes.c_void_p(at), None
    )
    class Last:
        def __del__(self, call=_native.Deleter(_native.DELETER), at=at):
            call(at)
    sys.last = Last()
    print("whole")
    """
    )
    assert "whole" in done.check()


def test_a_deleter_under_the_consumers_lock_waits_for_nobody(bench: Bench) -> None:
    """It is called without the GIL, while another thread has it: a Python deleter would wait here for ever."""
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    at = _native.struct_of(capsule, True, False)
    _native.set_name(capsule, _native.USED_VERSIONED)
    free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_native.DELETER)
    thread = threading.Thread(target=free, args=(at,))
    thread.start()
    thread.join()
    del capsule, given
    assert handle.close()


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_a_forked_child_releases_nothing_and_exports_anew() -> None:
    done = run_python(
        PROGRAM
        + """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    handle, given = export()
    array = numpy.from_dlpack(given)
    imported = from_dlpack(numpy.arange(4.0), manager=manager)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            del array, given
            sweep()
            handle.close()
            imported.close()
            assert not freed, freed
            manager = SafetyManager(name="child")
            mine, given = export()
            array = numpy.from_dlpack(given)
            del array, given
            assert mine.close() and len(freed) == 1
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not handle.close()
    del array, given
    assert handle.close() and len(freed) == 1
    assert imported.close()
    print("whole")
    """
    )
    assert "whole" in done.check()


# -- imports -------------------------------------------------------------------------------------------------


class Producer:
    """Hands out what it is told to."""

    def __init__(self, capsule: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.capsule = capsule
        self.device = device

    def __dlpack__(self, **wanted: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_an_import_owns_and_gives_back_once(manager: SafetyManager) -> None:
    source = numpy.arange(24, dtype="f4").reshape(4, 6)[:, ::2]
    before = sys.getrefcount(source)
    imported = from_dlpack(source, manager=manager)
    with imported.lease() as it:
        assert isinstance(it, Imported)
        assert (it.shape, it.dtype, it.nbytes, it.device) == ((4, 3), "<f4", 48, (1, 0))
        assert it.strides == source.strides
        assert it.address == source.ctypes.data
        assert it.readonly is not NEWER
        array = it.array(imported)
    assert (array == source).all()
    assert not imported.close()
    del array
    assert imported.close(timeout=20)
    assert imported.close()
    assert sys.getrefcount(source) == before


def test_thousands_of_imports(manager: SafetyManager) -> None:
    source = numpy.arange(24, dtype="f4")
    before = sys.getrefcount(source)
    for _ in range(THOUSANDS):
        with from_dlpack(source, manager=manager):
            pass
    for _ in range(100):
        from_dlpack(source, manager=manager)  # dropped
    eventually(lambda: sys.getrefcount(source) == before)


def test_negative_strides_can_be_taken_and_not_handed_on(manager: SafetyManager) -> None:
    source = numpy.arange(24, dtype="f4").reshape(4, 6)[::-1, ::-2]
    with from_dlpack(source, manager=manager) as imported:
        with imported.lease() as it:
            array = it.array(imported)
            assert (array == source).all()
            del array
            with pytest.raises(DLPackError, match="run backwards"):
                tensor(imported, it.address, shape=it.shape, dtype=it.dtype, strides=it.strides)


def test_an_import_without_a_version_is_read_only(bench: Bench) -> None:
    handle, _, given = bench.tensor(readonly=False)
    for writable in (False, True):
        with from_dlpack(given.__dlpack__(), manager=bench.manager, writable=writable) as imported:
            with imported.lease() as it:
                assert it.readonly is not writable
                assert it.array(imported).flags.writeable is writable
    with from_dlpack(given, manager=bench.manager) as imported, imported.lease() as it:
        assert not it.readonly
    del given, it
    assert handle.close(timeout=20)
    handle, _, given = bench.tensor(readonly=True)
    with pytest.raises(DLPackError, match="its producer says"):
        from_dlpack(given, manager=bench.manager, writable=True)
    del given
    assert handle.close()


def test_a_capsule_is_taken_once(bench: Bench) -> None:
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    first = from_dlpack(capsule, manager=bench.manager)
    with pytest.raises(DLPackError, match="used already"):
        from_dlpack(capsule, manager=bench.manager)
    with pytest.raises(DLPackError, match="used already"):
        from_dlpack(Producer(capsule), manager=bench.manager)
    del capsule, given
    assert not handle.close()
    assert first.close()
    assert handle.close()


def test_a_capsule_that_somebody_is_taking_is_refused_to_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that found its name unused would both own it, and give it back twice."""
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    described, refusals = _native.Described, []

    def take() -> None:
        try:
            from_dlpack(capsule, manager=bench.manager)
        except DLPackError as error:
            refusals.append(str(error))

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(_native, "Described", described)
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return described(*arguments)

    monkeypatch.setattr(_native, "Described", meanwhile)
    first = from_dlpack(capsule, manager=bench.manager)
    assert [text for text in refusals if "is taken on another thread just now" in text]
    take()
    assert "used already" in refusals[-1]
    del capsule, given
    assert first.close()
    assert handle.close()


@pytest.mark.needs("ml_dtypes")
def test_bfloat16_comes_and_goes(bench: Bench) -> None:
    """Also where it runs backwards, which only an import may."""
    bfloat16 = importlib.import_module("ml_dtypes").bfloat16

    handle, block = bench.block()
    whole = numpy.frombuffer(block.memory, bfloat16)
    whole[:] = numpy.arange(48)
    with from_dlpack(
        tensor(handle, block.address, shape=(6, 8), dtype=numpy.dtype(bfloat16)), manager=bench.manager
    ) as imported:
        with imported.lease() as it:
            assert (it.dtype, it.nbytes) == ("bfloat16", 96)
            array = it.array(imported)
            assert array.dtype == bfloat16
            assert (array == whole.reshape(6, 8)).all()
            it.address += 94
            it.strides = (-16, -2)
            array = it.array(imported)
            assert array.dtype == bfloat16
            assert (array == whole[::-1].reshape(6, 8)).all()
            del array
    del whole, it
    assert handle.close(timeout=20)


def test_an_import_of_nothing_is_an_empty_array(bench: Bench) -> None:
    """Its producer may give no address for it."""
    handle, _, given = bench.tensor(shape=(0, 3))
    capsule = versioned(given)
    struct = _native.struct_of(capsule, True, False)
    ctypes.memset(struct + 32, 0, 8)
    with from_dlpack(capsule, manager=bench.manager) as imported, imported.lease() as it:
        assert it.address == 0
        assert (it.array(imported).shape, it.array(imported).dtype) == ((0, 3), numpy.float32)
    del capsule, given, it
    assert handle.close(timeout=20)


@pytest.mark.parametrize(
    ("at", "value", "width"),
    [
        (0, 2, 4),
        (32 + 20, 17, 1),
        (32 + 21, 4, 1),
        (32 + 22, 4, 2),
        (32 + 16, -1, 4),
        (32 + 16, 99, 4),
        (32, 0, 8),
    ],
)
def test_structures_that_cannot_be_understood_are_not_taken(
    bench: Bench, at: int, value: int, width: int
) -> None:
    """Another major version, an unknown type, less than a byte, lanes, dimensions that are none, no address."""
    handle, _, given = bench.tensor()
    capsule = versioned(given)
    struct = _native.struct_of(capsule, True, False)
    kept = ctypes.string_at(struct, 96)
    ctypes.memmove(struct + at, value.to_bytes(width, sys.byteorder, signed=value < 0), width)
    with pytest.raises(DLPackError):
        from_dlpack(capsule, manager=bench.manager)
    ctypes.memmove(struct, kept, 96)
    assert _native.is_named(capsule, _native.NAME_VERSIONED), "it is still its holder's"
    del capsule, given
    assert handle.close()


@pytest.mark.parametrize("bad", [None, 3, "x", object(), [1, 2]])
def test_what_is_no_handle_and_no_manager_is_refused(bench: Bench, bad: Any) -> None:
    with pytest.raises(DLPackError, match="takes the Handle"):
        tensor(bad, 4096, shape=(4,))
    handle, _, given = bench.tensor()
    if bad is not None:
        with pytest.raises(LifecycleError, match="takes a SafetyManager"):
            from_dlpack(given, manager=bad)
    del given
    assert handle.close()


@pytest.mark.parametrize("device", [None, 1, (), (1,), "ab", (1.0, 0), (-1, 0)])
def test_a_producer_that_says_no_device_is_refused(bench: Bench, device: Any) -> None:
    class Producer:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("asked for a capsule")

        def __dlpack_device__(self) -> Any:
            return device

    with pytest.raises(DLPackError, match="a pair of whole numbers"):
        from_dlpack(Producer(), manager=bench.manager)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", object(), [1, 2], numpy.ndarray])
def test_what_has_no_dlpack_is_refused(manager: SafetyManager, bad: Any) -> None:
    with pytest.raises(DLPackError, match="takes an object with __dlpack__"):
        from_dlpack(bad, manager=manager)


@pytest.mark.parametrize("given", [3, None, "dltensor", __import__("datetime").datetime_CAPI])
def test_what_gives_no_capsule_of_a_tensor_is_told_apart_from_one_that_was_used(
    manager: SafetyManager, given: Any
) -> None:
    class Producer:
        def __dlpack__(self, **_: Any) -> Any:
            return given

    with pytest.raises(DLPackError, match="is no capsule of a tensor"):
        from_dlpack(Producer(), manager=manager)


def test_what_is_too_big_for_any_array_is_not_taken(bench: Bench) -> None:
    handle, _, given = bench.tensor(shape=(0, 3))
    capsule = versioned(given)
    struct = _native.struct_of(capsule, True, False)
    ctypes.c_int64.from_address(struct + _native.SHAPE_AT + 8).value = 1 << 62
    with pytest.raises(DLPackError, match="too big for an address space"):
        from_dlpack(capsule, manager=bench.manager)
    del capsule, given
    assert handle.close()


@pytest.mark.parametrize("strides", [(24, 4), (-24, 4)])
def test_an_array_of_an_import_wants_the_handle_of_that_import(
    manager: SafetyManager, strides: tuple[int, int]
) -> None:
    """Another handle would hold another object, and the array would read what is gone."""
    source = numpy.arange(24, dtype="f4").reshape(4, 6)
    imported, other = (from_dlpack(source, manager=manager) for _ in range(2))
    with imported.lease() as it:
        it.strides = strides
        others: tuple[Any, ...] = (other, None, 3)
        for bad in others:
            with pytest.raises(DLPackError, match="takes the handle that it was given by"):
                it.array(bad)
    imported.expect_holders()
    assert imported.close()
    assert other.close()


def test_what_register_refuses_stays_the_producers(bench: Bench) -> None:
    bench.manager.policy("dlpack.Tensor", max_live=1)
    handle, _, given = bench.tensor()
    first = from_dlpack(given, manager=bench.manager)
    with pytest.raises(LimitError):
        from_dlpack(given, manager=bench.manager)
    del given
    assert first.close()
    assert handle.close()


def test_an_older_producer_is_asked_again_without_a_version(bench: Bench) -> None:
    class Old:
        def __init__(self, given: Tensor) -> None:
            self.given = given

        def __dlpack__(self, stream: Any = None) -> Any:
            return self.given.__dlpack__()

    handle, _, given = bench.tensor(readonly=False)
    with from_dlpack(Old(given), manager=bench.manager) as imported, imported.lease() as it:
        assert it.readonly
    del given, it
    assert handle.close(timeout=20)


# -- others, where they are installed ------------------------------------------------------------------------


@pytest.mark.needs("jax")
def test_jax_both_ways(bench: Bench) -> None:
    jax = importlib.import_module("jax")
    for _ in range(THOUSANDS // 20):
        handle, block = bench.block()
        given = tensor(handle, block.address, shape=(4, 6), dtype="f4", readonly=False)
        array = jax.numpy.from_dlpack(given)
        assert float(array[0, 0]) != 0.0
        del array, given
        assert handle.close(timeout=20)
        imported = from_dlpack(jax.numpy.arange(8), manager=bench.manager)
        with imported.lease() as it:
            assert it.array(imported)[5] == 5
        assert imported.close(timeout=20)


@pytest.mark.needs("tvm_ffi")
def test_tvm_both_ways(bench: Bench) -> None:
    tvm_ffi = importlib.import_module("tvm_ffi")
    for _ in range(THOUSANDS // 10):
        handle, block = bench.block()
        given = tensor(handle, block.address, shape=(4, 6), dtype="f4", readonly=False)
        theirs = tvm_ffi.from_dlpack(given)
        del given
        assert not handle.close()
        imported = from_dlpack(theirs, manager=bench.manager)
        del theirs
        with imported.lease() as it:
            assert it.address == block.address
        assert imported.close()
        assert handle.close(timeout=20)


@pytest.mark.needs("pyarrow")
def test_pyarrow_is_taken(manager: SafetyManager) -> None:
    pyarrow = importlib.import_module("pyarrow")
    for _ in range(THOUSANDS // 10):
        with from_dlpack(pyarrow.array(range(10), pyarrow.int32()), manager=manager) as imported:
            with imported.lease() as it:
                assert it.array(imported).sum() == 45
    assert pyarrow.total_allocated_bytes() == 0


@pytest.mark.needs("torch")
def test_torch_both_ways(bench: Bench) -> None:
    torch = importlib.import_module("torch")
    for _ in range(THOUSANDS // 10):
        handle, block = bench.block()
        theirs = torch.from_dlpack(tensor(handle, block.address, shape=(4, 6), dtype="f4", readonly=False))
        assert theirs.data_ptr() == block.address
        assert not handle.close()
        imported = from_dlpack(theirs, manager=bench.manager)
        del theirs
        assert imported.close()
        assert handle.close(timeout=20)
