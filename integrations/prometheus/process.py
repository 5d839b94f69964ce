"""Figures of the process, not of a manager: the flight recorder's."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import attrs

from lifecycle.integrations.prometheus.families import Sources


@attrs.frozen
class ProcessFigures:
    """What a flight recorder says of itself."""

    records: int
    left_out: Mapping[str, int]
    previous_run_crashed: int


def process_sources() -> Sources:
    """The figures of the recorder that runs; nothing without one, which is not imported for the question."""
    module = sys.modules.get("lifecycle.recorder.recorder")
    recorder = None if module is None else module.active()
    if recorder is None:
        return []
    stats = recorder.stats()
    left_out = {"uses": stats.left_out_uses, "names": stats.left_out_texts}
    return [((), ProcessFigures(stats.records, left_out, int(stats.previous_crashes > 0)))]
