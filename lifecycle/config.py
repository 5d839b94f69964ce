"""Configuration: frozen, validated, readable from the environment."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import attrs

from lifecycle._core.checks import is_seconds, not_seconds
from lifecycle._core.streams import sparing
from lifecycle.errors import ConfigError, shown

LEAK_LEVELS = ("off", "simple", "detailed", "paranoid")
DEFAULT_LEAK_LEVEL = "simple"


def _positive(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not is_seconds(value) or not value:
        raise ConfigError(
            f"SafetyConfig.{attribute.name} is a number of seconds above 0, {not_seconds(value)}"
        )


def _count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"SafetyConfig.{attribute.name} is a whole number, 0 or more, not {value!r}")


def _count_or_none(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _count(_, attribute, value)


def _flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"SafetyConfig.{attribute.name} is True or False, not {value!r}")


def _level(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in LEAK_LEVELS:
        raise ConfigError(f"SafetyConfig.{attribute.name} is one of {', '.join(LEAK_LEVELS)}, not {value!r}")


def exception_types(value: Any, what: str) -> tuple[type[BaseException], ...]:
    """`value` as a tuple of exception classes; `ConfigError` naming `what` if it is anything else."""
    try:
        types = (
            value if isinstance(value, tuple) else (value,) if isinstance(value, type) else tuple(value or ())
        )
    except TypeError:
        raise ConfigError(f"{what} takes exception classes, not {shown(value)}") from None
    for item in types:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise ConfigError(f"{what} takes exception classes, not {shown(item)}")
    return types


def _errors(value: Any) -> tuple[type[BaseException], ...]:
    return exception_types(value, "SafetyConfig.errors")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _leak_level_of(environ: Mapping[str, str] = os.environ) -> str:
    """The leak level of the environment. It is set by whoever runs the program, perhaps for all programs, so
    it is not fatal."""
    text = environ.get("LIFECYCLE_LEAK_LEVEL", "") or DEFAULT_LEAK_LEVEL
    level = text.strip().lower()
    if level in LEAK_LEVELS:
        return level
    with sparing():
        warnings.warn(
            f"LIFECYCLE_LEAK_LEVEL={text!r} is unknown, so it is {DEFAULT_LEAK_LEVEL!r}: the levels are "
            f"{', '.join(LEAK_LEVELS)}",
            RuntimeWarning,
            stacklevel=3,
        )
    return DEFAULT_LEAK_LEVEL


@attrs.frozen(kw_only=True)
class SafetyConfig:
    """How a `SafetyManager` behaves. Immutable; `attrs.evolve` makes a changed copy. Impossible values raise
    `ConfigError`.

    Times are in seconds.
    """

    cleanup_interval: float = attrs.field(default=30.0, validator=_positive)
    """How often lost safe finalizers are looked for, at least."""
    state_retention: float = attrs.field(default=300.0, validator=_positive)
    """How long a record stays after its object ended, so that a late access is told what became of it."""
    max_retained: int = attrs.field(default=10_000, validator=_count)
    """How many ended records are kept at most, whatever `state_retention` says: a busy program ends millions
    in 300 s."""
    finalizer_timeout: float = attrs.field(default=5.0, validator=_positive)
    """Deadline of one timed release; past it the object is `STUCK` and its worker is replaced."""
    max_finalizer_retries: int | None = attrs.field(default=None, validator=_count_or_none)
    """How often a release that raised `NotReleased` (or a type of its `retry_on=`) is called again at most.
    None: as often as there is time, see ``register(retry_for=)``."""
    enable_state_checking: bool = attrs.field(default=True, validator=_flag)
    """False skips validators, policies and invalidation on panic; never the pin."""
    enable_finalizer_safety: bool = attrs.field(default=True, validator=_flag)
    """False runs releases meant for the timed workers inline and without a deadline."""
    log_state_changes: bool = attrs.field(default=False, validator=_flag)
    """True logs registrations, closes, declared errors, retries and the like, and not only warnings."""
    log_finalizers: bool = attrs.field(default=False, validator=_flag)
    """True logs each release and retry."""
    shutdown_timeout: float = attrs.field(default=10.0, validator=_positive)
    """Budget of `SafetyManager.close()` and of the exit pass, over all objects together."""
    max_stuck_finalizers: int = attrs.field(default=4, validator=_count)
    """How many workers may be written off and replaced; beyond that timed releases are quarantined."""
    errors: tuple[type[BaseException], ...] = attrs.field(default=(), converter=_errors)
    """Exceptions that are errors, not panics, in every `safe_access` of the manager."""
    leak_level: str = attrs.field(factory=_leak_level_of, converter=_lower, validator=_level)
    """``off``, ``simple`` (sampled sites), ``detailed`` (every site, and the last accesses) or ``paranoid``
    (more of them). Where it is not given, the environment's ``LIFECYCLE_LEAK_LEVEL`` says (one that is
    unknown is warned of), else it is ``simple``."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> SafetyConfig:
        """The configuration in the environment: ``LIFECYCLE_`` and a field's name in capitals, such as
        ``LIFECYCLE_FINALIZER_TIMEOUT=2.5`` or ``LIFECYCLE_LOG_FINALIZERS=yes``.

        `overrides` win over the environment. Raises `ConfigError` naming the variable whose value cannot be
        read. ``errors`` takes classes and so cannot be set this way.
        """
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in attrs.fields(cls):
            variable = f"LIFECYCLE_{field.name.upper()}"
            if field.name == "leak_level" and field.name not in overrides:
                values[field.name] = _leak_level_of(source)
            elif field.name == "errors" or field.name in overrides or variable not in source:
                continue
            else:
                values[field.name] = _parse(
                    variable, source[variable], int if field.default is None else type(field.default)
                )
        return cls(**values, **overrides)


_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _parse(variable: str, text: str, kind: type) -> Any:
    try:
        return _WORDS[text.strip().lower()] if kind is bool else kind(text.strip())
    except (KeyError, ValueError):
        wanted = {bool: "yes or no", int: "a whole number", float: "a number of seconds"}.get(kind, "text")
        raise ConfigError(f"{variable}={text!r} cannot be read: it takes {wanted}") from None


def is_command_line() -> bool:
    """Return True in a process of ``lifecycle`` or ``python -m lifecycle``, which looks at others
    and is not to be recorded or asked itself."""
    words = sys.orig_argv[1:]
    named = bool(words) and os.path.basename(words[0]) in ("lifecycle", "lifecycle.exe")
    return named or any(words[at : at + 2] == ["-m", "lifecycle"] for at in range(len(words)))
