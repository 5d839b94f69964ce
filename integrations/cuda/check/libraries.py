"""The checks with PyTorch, CuPy and Numba, each run if the library is installed."""

from __future__ import annotations

import gc
import importlib
from typing import Any

from lifecycle.integrations import dlpack
from lifecycle.integrations.cuda.check.bench import (
    SOON,
    Bench,
    NotHere,
    expect,
    held_up,
)
from lifecycle.integrations.cuda.memory import borrow
from lifecycle.integrations.cuda.streams import timeline


def module(name: str) -> Any:
    """A library, or the words that it is not here."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} is not installed ({error})") from None


def with_torch(bench: Bench) -> str:
    """PyTorch: its streams, its tensors, and tensors of the library that it uses."""
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
