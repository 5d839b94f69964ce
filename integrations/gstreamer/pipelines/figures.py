"""Figures for metrics: what the branches of a manager have passed and how they ended, and which recordings
could not be finished.

They outlive what they are of. A client that comes and goes between two scrapes is counted all the same, and
no counter goes down when a branch is attached again under its name. Each change makes a new value
(`Register`): none is lost or counted twice, whatever interrupts it, and however many branches are closed at a
time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Final, Protocol

import attrs

from lifecycle import SafetyManager
from lifecycle.distribution.chain import Register
from lifecycle.lowlevel import Uncopied

__all__ = ["BranchesFigures", "PassedFigures", "PipelineFigures", "figures_of"]

NAMES: Final = 200
"""How many names of branches are told apart."""
OTHER: Final = "_other_"
"""The name of all that came after them."""
REASONS: Final = ("eos", "error", "not_negotiated", "closed")


class Passing(Protocol):
    """What a branch has counted so far."""

    tripped: str
    passed: int
    dropped: int
    refused: int


@attrs.frozen
class PassedFigures:
    """What became of the buffers of the branches of one name."""

    results: Mapping[str, int]
    """By ``passed``, ``dropped`` (after the branch's end) and ``refused`` (while it was flushed or at
    NULL)."""


@attrs.frozen
class BranchesFigures:
    """The figures of a manager's pipelines at one moment."""

    ended: Mapping[str, int]
    """Branches by how they ended: ``eos``, ``error``, ``not_negotiated``, or ``closed`` before that."""
    unfinished: int
    """Files that could not be finished before their pipeline went."""
    branches: Mapping[str, PassedFigures]
    """By the branch's name."""


@attrs.frozen
class _Seen:
    """Never changed but replaced."""

    passed: Mapping[str, tuple[int, int, int]] = attrs.field(factory=dict)
    """By name: what those have passed, dropped and refused that are closed."""
    living: Mapping[Passing, str] = attrs.field(factory=dict)
    """The others, with their names."""
    ended: Mapping[str, int] = attrs.field(factory=lambda: dict.fromkeys(REASONS, 0))
    """Of those that are closed."""
    unfinished: int = 0

    def entered(self, name: str, branch: Passing) -> _Seen:
        label = name if name in self.passed or len(self.passed) < NAMES else OTHER
        passed = {**self.passed, label: self.passed.get(label, (0, 0, 0))}
        return attrs.evolve(self, passed=passed, living={**self.living, branch: label})

    def left(self, branch: Passing) -> _Seen:
        label = self.living.get(branch)
        if label is None:
            return self
        reason = _reason(branch, "closed")
        return attrs.evolve(
            self,
            passed={**self.passed, label: _sum(self.passed[label], branch)},
            living={other: name for other, name in self.living.items() if other is not branch},
            ended={**self.ended, reason: self.ended[reason] + 1},
        )

    def not_finished(self, files: int) -> _Seen:
        return attrs.evolve(self, unfinished=self.unfinished + files)


def _reason(branch: Passing, otherwise: str) -> str:
    return branch.tripped.replace("-", "_") or otherwise


def _sum(before: tuple[int, int, int], branch: Passing) -> tuple[int, int, int]:
    return before[0] + branch.passed, before[1] + branch.dropped, before[2] + branch.refused


class PipelineFigures(Uncopied):
    """A component of its manager. All methods may be called on any thread and at any moment."""

    _remedy = "ask figures_of(manager)"

    kind: Final = "branches"
    name: Final = "branches"

    def __init__(self) -> None:
        self._seen: Register[_Seen] = Register(_Seen())

    def enter(self, name: str, branch: Passing) -> None:
        """From here on `branch` is counted under `name`. It is kept until it leaves."""
        self._seen.update(lambda seen: seen.entered(name, branch))

    def leave(self, branch: Passing) -> None:
        """It is closed, and counts nothing more. Again: nothing."""
        self._seen.update(lambda seen: seen.left(branch))

    def not_finished(self, files: int) -> None:
        """So many files could not be finished."""
        self._seen.update(lambda seen: seen.not_finished(files))

    def stats(self) -> BranchesFigures:
        """The figures, as a frozen snapshot."""
        seen = self._seen.value
        passed, ended = dict(seen.passed), dict(seen.ended)
        for branch, label in seen.living.items():
            passed[label] = _sum(passed[label], branch)
            reason = _reason(branch, "")
            if reason:
                ended[reason] += 1
        results = ("passed", "dropped", "refused")
        return BranchesFigures(
            ended,
            seen.unfinished,
            {name: PassedFigures(dict(zip(results, counts, strict=True))) for name, counts in passed.items()},
        )


_figures: weakref.WeakKeyDictionary[SafetyManager, PipelineFigures] = weakref.WeakKeyDictionary()


def figures_of(manager: SafetyManager) -> PipelineFigures:
    """The figures of `manager`'s pipelines."""
    figures = _figures.get(manager) or _figures.setdefault(manager, PipelineFigures())
    manager.add_component(figures)
    return figures
