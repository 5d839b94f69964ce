"""How long a full collection takes with 100 000 objects live, and what `gc.freeze` does about it.

CPU time of ``gc.collect()``, the least of several, in a process of its own for each line: without any object,
with them, and with them frozen. What is frozen is left out of later collections; what is made after it, and
everything that dies by count, is as before.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time

from lifecycle import ANY_THREAD, SafetyConfig, SafetyManager

LIVE = 100_000
TIMES = 7
SCENES = ("none live", "live", "live and frozen", "closed again after the freeze")


class Native:
    """Stands for a native object."""

    __slots__ = ("__weakref__",)


def free(native: Native) -> None:
    """A release."""


def collection() -> float:
    """Milliseconds of CPU that a full collection takes now."""
    gc.collect()
    least = float("inf")
    for _ in range(TIMES):
        began = time.process_time()
        gc.collect()
        least = min(least, time.process_time() - began)
    return least * 1e3


def scene(name: str, number: int) -> float:
    """One line of the table, in this process."""
    with SafetyManager(SafetyConfig(leak_level="off")) as manager:
        manager.register(Native(), release=free).close()
        count = 0 if name == "none live" else number
        handles = [
            manager.register(Native(), "native", release=free, release_on=ANY_THREAD) for _ in range(count)
        ]
        manager.stats()  # counted, so that the keeper has nothing to do meanwhile
        if "freeze" in name or "frozen" in name:
            gc.collect()
            gc.freeze()
        if "closed" in name:
            while handles:
                handles.pop().close()
        return collection()


def main() -> None:
    """The table."""
    print(f"a full collection at {LIVE:,} live objects, CPython {sys.version.split()[0]}")
    for name in SCENES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.full_collection", name],
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"  {name:32} {float(done.stdout):8.2f} ms")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(scene(sys.argv[1], LIVE))
    else:
        main()
