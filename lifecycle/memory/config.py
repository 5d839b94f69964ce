"""How a `MemoryManager` behaves, checked as it is made."""

from __future__ import annotations

from typing import Any

import attrs

from lifecycle.errors import ConfigError
from lifecycle.lowlevel import check_timeout, whole

OVER = ("refuse", "block", "report")


def _flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"MemoryConfig.{attribute.name} is True or False, not {value!r}")


def _whole(value: Any) -> Any:
    number = whole(value)
    return value if number is None else number


def _limit(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (whole(value) or 0) <= 0:
        raise ConfigError(f"MemoryConfig.{attribute.name} is a whole number above 0 or None, not {value!r}")


def _share(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigError(
            f"MemoryConfig.{attribute.name} is a share of the budget, above 0 and up to 1, not {value!r}"
        )


def _choice(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in OVER:
        raise ConfigError(f"MemoryConfig.{attribute.name} is one of {', '.join(OVER)}, not {value!r}")


@attrs.frozen(kw_only=True)
class MemoryConfig:
    """How a `MemoryManager` behaves. Impossible values raise `ConfigError`."""

    track_object_lifecycle: bool = attrs.field(default=True, validator=_flag)
    """False: objects are registered and released all the same, but not counted, and no budget holds."""
    max_bytes: int | None = attrs.field(default=None, converter=_whole, validator=_limit)
    """Native bytes that may be unreleased at a time, all types together; None for no limit."""
    max_live: int | None = attrs.field(default=None, converter=_whole, validator=_limit)
    """Objects that may be unreleased at a time, all types together; None for no limit."""
    over: str = attrs.field(default="refuse", validator=_choice)
    """What becomes of an object over budget: ``refuse`` (`BudgetError`), ``block`` (it waits for room, first
    come first served), or ``report`` (it is taken, and an ``over_budget`` event is told)."""
    block_timeout: float | None = attrs.field(default=5.0)
    """Seconds for which ``block`` waits before it refuses; None for ever."""
    high_water: float = attrs.field(default=0.9, validator=_share)
    """The share of a budget from which on the pressure callbacks run."""
    low_water: float = attrs.field(default=0.7, validator=_share)
    """The share of a budget at which they have done enough."""
    collect: bool = attrs.field(default=False, validator=_flag)
    """Run the garbage collector as the last pressure callback: it cannot know what native memory its garbage
    holds."""

    def __attrs_post_init__(self) -> None:
        if self.block_timeout is not None:
            check_timeout(self.block_timeout)
        if self.low_water > self.high_water:
            raise ConfigError(
                f"MemoryConfig.low_water ({self.low_water!r}) lies above high_water ({self.high_water!r})"
            )
