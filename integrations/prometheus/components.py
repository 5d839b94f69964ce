"""Components: whose figures are other people's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lifecycle import SafetyManager, TypeStats
from lifecycle.integrations.prometheus.families import (
    PER_CAPTURE,
    PER_DISTRIBUTOR,
    PER_GROUP,
    PER_POOL,
    Row,
)
from lifecycle.integrations.prometheus.merging import together


@attrs.frozen(eq=False)
class Read:
    """What a component has said of itself."""

    manager: SafetyManager
    kind: str
    labels: tuple[str, ...]
    figures: Any
    rows: tuple[Row, ...]

    def with_figures(self, figures: Any, *more: str) -> Read:
        """Of the same component, but other figures, under more labels."""
        rows = PER_GROUP if more else self.rows
        return attrs.evolve(self, figures=figures, labels=(*self.labels, *more), rows=rows)

    def check(self) -> None:
        """See that families can be made of it. Raises what they would."""
        if not all(isinstance(label, str) for label in self.labels):
            raise TypeError(f"its name is to be a text, and is {self.labels[0]!r}")
        for row in self.rows:
            for sample in row.family(
                tuple("abcd"[: len(self.labels)]), [(self.labels, self.figures)]
            ).samples:
                float(sample.value)


_ROWS: Mapping[str, tuple[Row, ...]] = {
    "capture": PER_CAPTURE,
    "pool": PER_POOL,
    "distributor": PER_DISTRIBUTOR,
    "memory": (),
}
"""The kinds of components that families are made of."""


def read_all(managers: Sequence[SafetyManager]) -> list[Read]:
    """What the components of `managers` say, each once. One that fails is reported by its manager, and left
    out."""
    found: list[Read] = []
    seen: set[int] = set()
    for manager in managers:
        for component in manager.components():
            if id(component) in seen:
                continue
            seen.add(id(component))
            try:
                read = _read(manager, component)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                _report(manager, _text(component, "kind"), _text(component, "name"), error)
            else:
                found += read
    return found


def _read(manager: SafetyManager, component: Any) -> list[Read]:
    """What a component says, checked; nothing where no family is made of its kind."""
    kind = component.kind
    if not isinstance(kind, str):
        raise TypeError(f"its kind is to be a text, and is {kind!r}")
    rows = _ROWS.get(kind)
    if rows is None:
        return []
    figures = component.stats()
    read = Read(manager, kind, (component.name,), figures, rows)
    read.check()
    if kind == "distributor":
        for group, of_group in figures.groups.items():
            read.with_figures(of_group, group).check()
        attrs.evolve(figures, groups={})
    elif kind == "memory":
        for budget in figures.types.values():
            for limit in (budget.bytes_limit, budget.objects_limit):
                float(lower(limit, 0) or 0)
    return [read]


def _text(component: Any, attribute: str) -> str:
    """An attribute for a message, whatever it is; empty where it cannot be had, which the message is about
    then."""
    try:
        value = getattr(component, attribute)
        return value if isinstance(value, str) and value else ""
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""


def _report(manager: SafetyManager, kind: str, name: str, error: BaseException) -> None:
    """Have the manager count and tell that a component's figures are missing."""
    kind = kind if kind in _ROWS else "component"
    manager.report_panic(f"figures of {kind}{f' {name!r}' if name else ''}", error, type_name=kind)


def of(components: Sequence[Read], kind: str) -> list[Read]:
    """Those of one kind."""
    return [one for one in components if one.kind == kind]


def distinct(reads: Sequence[Read]) -> list[Read]:
    """One for each set of label values, with the figures of all that have them: a series is given once.
    Figures that cannot be put together are those of the first, and the others are reported."""
    groups: dict[tuple[str, ...], list[Read]] = {}
    for one in reads:
        groups.setdefault(one.labels, []).append(one)
    found = []
    for group in groups.values():
        first = group[0]
        try:
            whole = first.with_figures(together([one.figures for one in group]))
            whole = attrs.evolve(whole, rows=first.rows)
            whole.check()
        except Exception as error:
            whole = first
            for other in group[1:]:
                _report(other.manager, other.kind, other.labels[0], error)
        found.append(whole)
    return found


def with_budgets(types: Mapping[str, TypeStats], memories: Sequence[Read]) -> Mapping[str, TypeStats]:
    """`types` with the limits that memory managers set for them; the lowest of several."""
    limited = dict(types)
    for memory in memories:
        for name, budget in memory.figures.types.items():
            known = limited.get(name)
            if known is not None:
                limited[name] = attrs.evolve(
                    known,
                    bytes_limit=lower(known.bytes_limit, budget.bytes_limit),
                    objects_limit=lower(known.objects_limit, budget.objects_limit),
                )
    return limited


def lower(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, of which None is none."""
    return min(one, other) if one is not None and other is not None else one if other is None else other
