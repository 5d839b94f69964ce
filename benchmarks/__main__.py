"""``python -m benchmarks [--quick] [core guards gstreamer …]``: run the benchmarks and print what each costs
beside its peer.

Each module here is a pyperf script. Its benchmarks come in pairs named ``case | ours`` and ``case | peer``,
run one after the other in the same run, and ``TARGETS`` says what their ratio should be. Machines are noisy,
so nothing here fails: read the table.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile

import pyperf
from rich.console import Console
from rich.table import Table

MODULES = ("core", "guards", "sharing", "scrape", "gstreamer", "pools")


def run(module: str, quick: bool) -> pyperf.BenchmarkSuite | None:
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "result.json")
        speed = ["-p", "3", "-n", "3", "-w", "1"] if quick else ["-p", "8", "-n", "3", "-w", "1"]
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{module}",
            "-q",
            "-o",
            output,
            "--inherit-environ",
            "PYTHONPATH",
            *speed,
        ]
        done = subprocess.run(command, check=False)
        if done.returncode != 0 or not os.path.exists(output):
            return None
        return pyperf.BenchmarkSuite.load(output)


def table_of(module: str, suite: pyperf.BenchmarkSuite, targets: dict[str, float]) -> Table:
    table = Table(title=f"{module}, Python {sys.version.split()[0]}")
    for heading in ("case", "ours, µs", "peer, µs", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    median = {bench.get_name(): bench.median() for bench in suite.get_benchmarks()}
    for case, target in targets.items():
        ours, peer = median.get(f"{case} | ours"), median.get(f"{case} | peer")
        if ours is None or peer is None:
            continue
        ratio = ours / peer
        mark = "" if ratio <= target else "  over"
        table.add_row(case, f"{ours * 1e6:.2f}", f"{peer * 1e6:.2f}", f"{ratio:.2f}{mark}", f"≤ {target:g}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="what each thing costs, beside a peer in the same run"
    )
    parser.add_argument(
        "modules", nargs="*", metavar="module", help=f"{', '.join(MODULES)}; all of them by default"
    )
    parser.add_argument("--quick", action="store_true", help="fewer processes: for a first look")
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
        suite = run(name, arguments.quick)
        if suite is None:
            console.print(f"benchmarks.{name}: did not finish")
            continue
        console.print(table_of(name, suite, targets))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
