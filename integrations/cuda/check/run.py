"""The table of checks, and the program that runs them and prints what they have seen."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog

from lifecycle.integrations.cuda.check.bench import (
    Bench,
    NotHere,
)
from lifecycle.integrations.cuda.check.driver import (
    across_streams,
    balance,
    copies,
    costs,
    dropped_memory,
    exclusive_use,
    exports,
    fences_elsewhere,
    in_a_streams_order,
    in_flight,
    in_order,
    owned_memory,
    the_device,
    torn_reads,
)
from lifecycle.integrations.cuda.check.libraries import with_cupy, with_numba, with_torch
from lifecycle.integrations.cuda.check.processes import crash, forked, lost
from lifecycle.integrations.cuda.errors import CUDAError

ABOUT: Final = "Try streams, memory and DLPack on a device, and print a table. Ends with 2 without a device."
LIMIT: Final = 110
"""Seconds after which everything is given up, with the stacks of all threads."""

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


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lifecycle.integrations.cuda.check", description=ABOUT)
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
