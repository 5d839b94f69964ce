"""What the tests register, and reading what a collector says about it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from types import SimpleNamespace

import attrs
from prometheus_client import CollectorRegistry, Metric, generate_latest

from lifecycle.stats import Histogram


class Native:
    """Stands for a native object: something with an identity of its own."""


def released(obj: object) -> None:
    """A release with nothing to do."""


@attrs.frozen
class CaptureFigures:
    name: str
    results: dict[str, int]
    last_frame: float
    callback_duration: Histogram
    frames_held: int


class Camera:
    """A component as a Capture is one."""

    kind = "capture"

    def __init__(self, name: str, frames: int, bounds: tuple[float, ...] = (0.001, 5.0)) -> None:
        self.name = name
        self.frames = frames
        self.bounds = bounds

    def stats(self) -> CaptureFigures:
        """Every callback took a little more than the first bound."""
        counts = (0, self.frames, *(0 for _ in self.bounds[1:]))
        durations = Histogram(self.bounds, counts, sum=self.frames / 100)
        return CaptureFigures(
            name=self.name,
            results={"ok": self.frames, "error": 0, "panic": 0, "dropped": 0},
            last_frame=1000.0 + self.frames,
            callback_duration=durations,
            frames_held=1,
        )


class Branches:
    """A component as the branches of a manager's pipelines are one."""

    kind = name = "branches"

    def stats(self) -> SimpleNamespace:
        """Of one branch."""
        frames = SimpleNamespace(results={"passed": 3, "dropped": 1, "refused": 0})
        ended = {"eos": 1, "error": 0, "not_negotiated": 0, "closed": 0}
        return SimpleNamespace(ended=ended, unfinished=2, branches={"snapshot": frames})


class Cache:
    """A component as a TextureCache is one."""

    kind = "texture_cache"

    def __init__(self, name: str) -> None:
        self.name = name

    def stats(self) -> SimpleNamespace:
        """Two textures, one of them found again."""
        return SimpleNamespace(entries=2, bytes=512, gets={"hit": 1, "miss": 2}, rebuilds=0)


def family(metrics: Iterable[Metric], name: str) -> Metric:
    """The one family called `name` (without ``_total`` or ``_info``)."""
    (found,) = [metric for metric in metrics if metric.name == name]
    return found


def value(metrics: Iterable[Metric], sample: str, **labels: str) -> float:
    """The value of the one sample that has this name and these labels among its own; ``type_`` stands for
    ``type``."""
    wanted = {key.rstrip("_"): text for key, text in labels.items()}
    found = [
        s.value
        for metric in metrics
        for s in metric.samples
        if s.name == sample and wanted.items() <= s.labels.items()
    ]
    assert len(found) == 1, f"{sample}{wanted} is there {len(found)} times"
    return found[0]


def check_metrics(promtool: str, exposition: bytes) -> None:
    """Have promtool read and judge the text; it must have no objection whatsoever."""
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, timeout=30, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert (done.returncode, said) == (0, ""), said


def exposed(registry: CollectorRegistry) -> str:
    """The text of a scrape."""
    return generate_latest(registry).decode()
