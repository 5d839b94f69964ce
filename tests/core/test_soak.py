"""I7, briefly: objects of every fate on several threads, and the figures to the last one. `make soak-core`
does it for hours."""

from __future__ import annotations

import pytest

from benchmarks import core_soak
from tests.core.adversary import STORM


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_object_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    number = int(20_000 * STORM)
    monkeypatch.setattr(core_soak, "HANGS_EVERY", number // 3)
    report = core_soak.soak(number, seed=1)
    assert report.wrong == ()
    assert report.objects >= number
    assert min(report.expected.values()) >= 1, report.expected
    assert report.blocks < max(core_soak.BLOCKS, number // 2), (
        "memory ends where it began: no block for every other object"
    )
    assert "polyline" in core_soak.plot(report)


def test_what_does_not_add_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_soak.Churn, "panic", core_soak.Churn.close)
    monkeypatch.setattr(core_soak.Churn, "failure", lambda self, place: self.made("failed", "panics"))
    report = core_soak.soak(1000)
    assert "panics" in " ".join(report.wrong)
    assert "registered" in " ".join(report.wrong)
