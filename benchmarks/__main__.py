"""``python -m benchmarks [--quick] [--publish] [core guards …]``: what each thing costs beside its peer.

Each module here is a pyperf script. Its benchmarks come in pairs named ``case | ours`` and ``case | peer``,
run one after the other, and ``TARGETS`` says what their ratio should be; `benchmarks.scaling` has curves
instead. Each module is run five times, and a ratio is that of one run: the table has the median of the five,
the least and the greatest. Machines are noisy, so nothing here fails: read the table. ``--publish`` writes it
into ``docs/benchmarks.md``, with the plots.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.publishing import publish
from benchmarks.results import RUNS, Result, results, run
from benchmarks.scaling import CURVES

MODULES = ("core", "guards", "sharing", "scrape", "gstreamer", "gpu", "pools", "proxies", "recorder")
SCALING = "scaling"


def table_of(module: str, found: Sequence[Result], targets: Mapping[str, float], runs: int) -> Table:
    table = Table(title=f"{module}, Python {sys.version.split()[0]}, {runs} run(s)")
    for heading in ("case", "ours, µs", "peer, µs", "ratio", "from – to", "target"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for one in found:
        target = targets.get(one.case)
        table.add_row(
            one.case,
            f"{one.ours * 1e6:.2f}",
            f"{one.peer * 1e6:.2f}",
            f"{one.ratio:.2f}{'  over' if target is not None and one.ratio > target else ''}",
            f"{one.least:.2f} – {one.most:.2f}",
            "" if target is None else f"≤ {target:g}",
        )
    return table


def main() -> int:
    known = (*MODULES, SCALING)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="what each thing costs, beside a peer in the same run"
    )
    parser.add_argument(
        "modules", nargs="*", metavar="module", help=f"{', '.join(known)}; all of them by default"
    )
    parser.add_argument("--quick", action="store_true", help="one run: for a first look")
    parser.add_argument(
        "--publish", action="store_true", help="write tables and plots into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    wrong = [name for name in arguments.modules if name not in known]
    if wrong:
        parser.error(f"there is no benchmark {', '.join(wrong)}: choose from {', '.join(known)}")
    runs = 1 if arguments.quick else RUNS
    console = Console(width=110)
    tables: dict[str, tuple[list[Result], Mapping[str, float]]] = {}
    curves: list[Result] = []
    for name in arguments.modules or known:
        try:
            targets: Mapping[str, float] = (
                importlib.import_module(f"benchmarks.{name}").TARGETS if name != SCALING else {}
            )
        except ImportError as error:
            console.print(f"benchmarks.{name}: skipped, {error}")
            continue
        finished = [suite for suite in (run(name) for _ in range(runs)) if suite is not None]
        if not finished:
            console.print(f"benchmarks.{name}: did not finish")
            continue
        cases = targets or [
            f"{title} @ {number}" for title, curve in CURVES.items() for number in curve.numbers
        ]
        found = results(finished, cases)
        console.print(table_of(name, found, targets, len(finished)))
        if name == SCALING:
            curves = found
        else:
            tables[name] = found, targets
    if arguments.publish:
        publish(tables, curves, runs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
