"""What ``python -m benchmarks --publish`` writes: the tables and plots of ``docs/benchmarks.md``.

They stand between two comments of that page, and say of which machine, versions and day they are. What is
measured elsewhere stands outside them.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.results import Result
from benchmarks.scaling import CURVES

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
PLOTS = DOCS / "_static" / "benchmarks"
BEGIN = "<!-- written by make bench: begin -->"
END = "<!-- written by make bench: end -->"
BESIDE = ("attrs", "structlog", "SQLAlchemy", "wrapt", "prometheus-client", "numpy")
GROWTH = "How costs grow"
OURS, PEER = "#1f77b4", "#888888"


def machine(runs: int) -> str:
    """A sentence of where and when."""
    versions = []
    for name in BESIDE:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else " without the GIL"
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return (
        f"{today:%d %B %Y}, CPython {platform.python_version()}{gil}, {where} at the end; "
        f"{', '.join(versions)}. {runs} run(s): the median of the ratios, the least and the greatest."
    )


def table(found: Sequence[Result], targets: Mapping[str, float]) -> list[str]:
    lines = [
        "| case | ours, µs | peer, µs | ratio | from – to | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        target = targets[one.case]
        met = (
            "met" if one.most <= target else "met, not in each run" if one.ratio <= target else "**not met**"
        )
        lines.append(
            f"| {one.case} | {micro(one.ours)} | {micro(one.peer)} | {one.ratio:.2g} | {one.least:.2g} – "
            f"{one.most:.2g} | ≤ {target:g} | {met} |"
        )
    return lines


def micro(seconds: float) -> str:
    """In microseconds, three figures of it."""
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def draw(found: Mapping[str, Result]) -> list[str]:
    """A plot of each curve, and the page's lines for it."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "lifecycle"
    PLOTS.mkdir(parents=True, exist_ok=True)
    lines = []
    for title, curve in CURVES.items():
        points = [
            (number, found[case]) for number in curve.numbers if (case := f"{title} @ {number}") in found
        ]
        if not points:
            continue
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4), constrained_layout=True)
        numbers = [number for number, _ in points]
        axes.plot(numbers, [one.ours * 1e6 for _, one in points], "o-", color=OURS, label="lifecycle")
        axes.plot(numbers, [one.peer * 1e6 for _, one in points], "s--", color=PEER, label=curve.peer)
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:,}".replace(",", " ") for number in numbers])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_xlabel(curve.counted)
        axes.set_ylabel(curve.clock)
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(PLOTS / f"{curve.file}.svg", metadata={"Date": None})
        pyplot.close(figure)
        said = "; ".join(
            f"{number:,} {micro(one.ours)} ({micro(one.peer)})".replace(",", " ") for number, one in points
        )
        lines += [
            f"![{title}, by {curve.counted}](_static/benchmarks/{curve.file}.svg)",
            "",
            f"**{title}**, {curve.clock}, by {curve.counted}, in parentheses {curve.peer}: {said}.",
            "",
        ]
    return lines


def publish(
    tables: Mapping[str, tuple[Sequence[Result], Mapping[str, float]]], curves: Sequence[Result], runs: int
) -> None:
    """Write the page's part between `BEGIN` and `END`, and the plots. What was not run stays as it was, with
    the machine and the day that it is of."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    written, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} has not the lines {BEGIN!r} and {END!r}, one behind the other")
    of = machine(runs)
    sections = dict(part.split("\n", 1) for part in written.split("\n### ")[1:])
    for module, (results, targets) in tables.items():
        sections[f"`{module}`"] = "\n".join(["", of, "", *table(results, targets), ""])
    if curves:
        drawn = draw({one.case: one for one in curves})
        sections[GROWTH] = "\n".join(["", of, "", *drawn])
    # In the order that they were first written in, the plots last.
    order = sorted(sections, key=lambda heading: heading == GROWTH)
    text = "\n".join(f"### {heading}\n{sections[heading].rstrip()}\n" for heading in order)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
