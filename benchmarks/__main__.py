"""``python -m benchmarks [--quick] [core guards gstreamer …]``: run the benchmarks and print what each costs
beside its peer.

Each module here is a pyperf script. Its benchmarks come in pairs named ``case | ours`` and ``case | peer``,
run one after the other, and ``TARGETS`` says what their ratio should be. Each module is run five times, and a
ratio is that of one run: the table has the median of the five, the least and the greatest. Machines are
noisy, so nothing here fails: read the table.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile

import pyperf
from rich.console import Console
from rich.table import Table

MODULES = ("core", "guards", "sharing", "scrape", "gstreamer", "pools", "proxies", "recorder")


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


def table_of(module: str, suites: list[pyperf.BenchmarkSuite], targets: dict[str, float]) -> Table:
    table = Table(title=f"{module}, Python {sys.version.split()[0]}, {len(suites)} run(s)")
    for heading in ("case", "ours, µs", "peer, µs", "ratio", "from – to", "target"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    medians = [{bench.get_name(): bench.median() for bench in suite.get_benchmarks()} for suite in suites]
    for case, target in targets.items():
        pairs = [
            (found[f"{case} | ours"], found[f"{case} | peer"])
            for found in medians
            if f"{case} | ours" in found
        ]
        if not pairs:
            continue
        ratios = [ours / peer for ours, peer in pairs]
        ratio = statistics.median(ratios)
        table.add_row(
            case,
            f"{statistics.median(ours for ours, _ in pairs) * 1e6:.2f}",
            f"{statistics.median(peer for _, peer in pairs) * 1e6:.2f}",
            f"{ratio:.2f}{'' if ratio <= target else '  over'}",
            f"{min(ratios):.2f} – {max(ratios):.2f}",
            f"≤ {target:g}",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="what each thing costs, beside a peer in the same run"
    )
    parser.add_argument(
        "modules", nargs="*", metavar="module", help=f"{', '.join(MODULES)}; all of them by default"
    )
    parser.add_argument("--quick", action="store_true", help="one run: for a first look")
    arguments = parser.parse_args()
    wrong = [name for name in arguments.modules if name not in MODULES]
    if wrong:
        parser.error(f"there is no benchmark {', '.join(wrong)}: choose from {', '.join(MODULES)}")
    console = Console(width=110)
    for name in arguments.modules or MODULES:
        try:
            targets = importlib.import_module(f"benchmarks.{name}").TARGETS
        except ImportError as error:
            console.print(f"benchmarks.{name}: skipped, {error}")
            continue
        suites = [run(name) for _ in range(1 if arguments.quick else RUNS)]
        finished = [suite for suite in suites if suite is not None]
        if not finished:
            console.print(f"benchmarks.{name}: did not finish")
            continue
        console.print(table_of(name, finished, targets))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
