"""``python -m benchmarks [core|guards|gstreamer …]``: run the benchmarks and print what each costs beside its peer.

Each module here is a pyperf script. Its benchmarks come in pairs named ``case | ours`` and ``case | peer``, run one after the
other in the same run, and ``TARGETS`` says what their ratio should be. Machines are noisy, so nothing here fails: read the table.
"""

from __future__ import annotations

import importlib
import importlib.util
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
    wanted = [name for name in sys.argv[1:] if not name.startswith("-")] or list(MODULES)
    console = Console(width=110)
    for name in wanted:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            console.print(f"benchmarks.{name}: there is no such module")
            continue
        try:
            targets = importlib.import_module(f"benchmarks.{name}").TARGETS
        except ImportError as error:
            console.print(f"benchmarks.{name}: skipped, {error}")
            continue
        suite = run(name, "--quick" in sys.argv)
        if suite is None:
            console.print(f"benchmarks.{name}: did not finish")
            continue
        console.print(table_of(name, suite, targets))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
