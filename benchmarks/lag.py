"""``python -m benchmarks.lag [frames]``: the lag of sixteen receivers of a 1080p pipeline over time, drawn to
``out/lag.png``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.sharing.pipeline import CAPACITY, DEAD, PANICKING, SLOW, run


def main() -> int:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen = run(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
    figure, axes = pyplot.subplots(figsize=(11, 6), constrained_layout=True)
    for number, points in enumerate(seen.lags):
        what = (
            f"slow, {SLOW[number] * 1000:.0f} ms a frame"
            if number in SLOW
            else "dead"
            if number == DEAD
            else "panicking at every second frame"
            if number == PANICKING
            else ""
        )
        label = (
            f"{number}: {what}, {seen.received[number]} received, {seen.missed[number]} missed"
            if what
            else None
        )
        axes.plot(
            *zip(*points, strict=True),
            linewidth=1.4 if what else 0.6,
            color=None if what else "0.7",
            label=label,
        )
    axes.axhline(CAPACITY, color="0.3", linestyle=":", label=f"capacity, {CAPACITY} frames")
    axes.set_yscale("symlog", linthresh=CAPACITY)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("lag, frames")
    axes.set_title(f"{seen.published} frames of 1080p to {len(seen.lags)} receivers; the others in grey")
    axes.legend(loc="center right", fontsize="small")
    out = Path("out")
    out.mkdir(exist_ok=True)
    figure.savefig(out / "lag.png", dpi=110)
    print(
        f"out/lag.png: {seen.published} published, at most {seen.most_held} held, leaks "
        f"{seen.tracer or 'none'}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
