"""The checks in a process of their own: a forked child, and a context that a kernel has broken."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from functools import partial
from typing import Final

from lifecycle import ANY_THREAD, ObjectState
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.check.bench import SOON, Bench, NotHere, expect, held_up, refused
from lifecycle.integrations.cuda.errors import CUDAError


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
