"""Running a module of benchmarks, and what its runs say: ratios, of one run each."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pyperf

RUNS = 5


def run(module: str) -> pyperf.BenchmarkSuite | None:
    """One run of a module, each benchmark in one process; None where it did not finish."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "result.json")
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{module}",
            "-q",
            "-o",
            output,
            "--inherit-environ",
            "PYTHONPATH",
            *("-p", "1", "-n", "3", "-w", "1"),
        ]
        done = subprocess.run(command, check=False)
        if done.returncode != 0 or not os.path.exists(output):
            return None
        return pyperf.BenchmarkSuite.load(output)


class Result(NamedTuple):
    """What one case cost beside its peer."""

    case: str
    ours: float
    """Seconds, the median of the runs."""
    peer: float
    ratio: float
    """The median of the runs, and the least and the greatest."""
    least: float
    most: float


def results(suites: Iterable[pyperf.BenchmarkSuite], cases: Iterable[str]) -> list[Result]:
    """Of those `cases` that were run."""
    medians = [{bench.get_name(): bench.median() for bench in suite.get_benchmarks()} for suite in suites]
    found = []
    for case in cases:
        pairs = [
            (each[f"{case} | ours"], each[f"{case} | peer"]) for each in medians if f"{case} | ours" in each
        ]
        if pairs:
            ratios = [ours / peer for ours, peer in pairs]
            of: Callable[[Iterable[float]], float] = statistics.median
            found.append(
                Result(
                    case,
                    of(ours for ours, _ in pairs),
                    of(peer for _, peer in pairs),
                    of(ratios),
                    min(ratios),
                    max(ratios),
                )
            )
    return found
