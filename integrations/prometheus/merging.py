"""Several figures under one label, as one."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from math import inf
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, TypeVar

import attrs

from lifecycle import TypeStats
from lifecycle.integrations.prometheus.families import Row
from lifecycle.stats import Histogram, QueueStats

MAX_TYPES = 200
"""How many types of one manager have a label of their own."""
OTHER = "_other_"
"""The type label that the types beyond `MAX_TYPES` share."""

Figures = TypeVar("Figures", bound=attrs.AttrsInstance)


def capped(types: Mapping[str, TypeStats]) -> dict[str, TypeStats]:
    """`types` by label: the first `MAX_TYPES` under their own names, all others together."""
    own = dict(list(types.items())[:MAX_TYPES])
    rest = list(types.values())[MAX_TYPES:]
    if OTHER in own:  # a type that somebody has named so
        rest.append(own.pop(OTHER))
    if rest:
        own[OTHER] = together(rest)
    return own


def by_name(queues: Sequence[QueueStats]) -> list[QueueStats]:
    """Each name once, with the figures of all queues that have it."""
    groups: dict[str, list[QueueStats]] = {}
    for queue in queues:
        groups.setdefault(queue.queue, []).append(queue)
    return [together(group) for group in groups.values()]


def together(group: Sequence[Figures]) -> Figures:
    """The figures of several things that share a label, as one."""
    first = group[0]
    if len(group) == 1:
        return first
    changes = {
        field.name: combine(field.name, [getattr(figures, field.name) for figures in group])
        for field in attrs.fields(type(first))
    }
    return type(first)(**changes)


def merged(rows: Sequence[Row], group: Sequence[SimpleNamespace]) -> SimpleNamespace:
    """The figures of several components, of which `rows` says the fields, as one."""
    if len(group) == 1:
        return group[0]
    return SimpleNamespace(
        **{row.field: combine(row.field, [getattr(one, row.field) for one in group]) for row in rows}
    )


def combine(name: str, values: Sequence[Any]) -> Any:
    """The readings of several things that share a label, as one."""
    values = [value for value in values if value is not None]
    if len(values) < 2:
        return values[0] if values else None
    first = values[0]
    if isinstance(first, str):
        return first
    if isinstance(first, Mapping):
        return {
            key: sum(value.get(key, 0) for value in values)
            for key in dict.fromkeys(k for v in values for k in v)
        }
    if isinstance(first, Histogram):
        return _sum_of_histograms(values)
    if name == "oldest":
        return min((value for value in values if value), default=0.0)
    if name.startswith("last_") or name == "lag":
        return max(values)
    if name == "longest":
        return max(values, key=attrgetter("seconds"))
    if name.endswith("_limit"):
        return None  # each has its own; a sum would be nobody's
    return sum(values)


def _sum_of_histograms(histograms: Sequence[Histogram]) -> Histogram:
    """Exact at the bounds that all of them have; the others are left out."""
    bounds = tuple(sorted(set(histograms[0].bounds).intersection(*(set(h.bounds) for h in histograms[1:]))))
    counts = [0] * (len(bounds) + 1)
    for histogram in histograms:
        for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
            counts[bisect.bisect_left(bounds, bound)] += count
    return Histogram(bounds=bounds, counts=tuple(counts), sum=sum(h.sum for h in histograms))
