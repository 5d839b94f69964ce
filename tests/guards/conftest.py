"""Fixtures of the guards' tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt that strikes in a ``__del__``, of a guard that has done its work, is printed by the
    language; not here."""
    monkeypatch.setattr("sys.unraisablehook", lambda *_: None)
