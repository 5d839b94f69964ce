"""The value of what was not given, where None means something of its own."""

from __future__ import annotations

import enum
from typing import Final


class Default(enum.Enum):
    """The type of `DEFAULT`. A checker narrows ``float | Default | None`` by ``is DEFAULT``."""

    VALUE = "default"

    def __repr__(self) -> str:
        return "DEFAULT"

    def __str__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.VALUE
"""What was not given: a time-out is the object's, the pool's or the budget's own; a rule stays as it was."""
