"""Policies: the rules of one type of objects, checked before any is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle._core.checks import check_callback, is_seconds, not_seconds, whole
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.tables import ObjectType, open_records
from lifecycle.config import exception_types
from lifecycle.errors import RegistrationError, shown
from lifecycle.manager.rare import check_arguments


def set_policy(
    kind: ObjectType,
    *,
    errors: Any,
    max_age: float | Default | None,
    max_live: int | Default | None,
    max_bytes: int | Default | None,
    validate: Callable[[Any], object] | Default | None,
    fork: str | Default,
) -> None:
    """Set the rules that are given. Raises `RegistrationError` for one that makes no sense, and changes
    nothing then."""
    type_name = kind.type_name
    registry = kind.registry
    if errors is not DEFAULT:
        errors = exception_types(errors or (), "policy(errors=)")
    if max_age is not None and max_age is not DEFAULT and not (is_seconds(max_age) and max_age):
        raise RegistrationError(
            f"policy(max_age=) of type {type_name!r} takes a number above 0 or None, {not_seconds(max_age)}"
        )
    for rule, value in (("max_live", max_live), ("max_bytes", max_bytes)):
        if value is not None and value is not DEFAULT and (whole(value) or 0) <= 0:
            raise RegistrationError(
                f"policy({rule}=) of type {type_name!r} takes a number above 0 or None, not {shown(value)}"
            )
    if validate is not None and validate is not DEFAULT:
        check_callback(validate, "validate")
        check_arguments(validate, "validate")
    if fork is not DEFAULT and fork not in ("forget", "keep"):
        raise RegistrationError(
            f"policy(fork=) of type {type_name!r} takes 'forget' or 'keep', not {shown(fork)}"
        )
    rules: tuple[tuple[str, Any], ...] = (
        ("errors", errors),
        ("max_age", max_age),
        ("max_live", max_live if max_live is DEFAULT else whole(max_live)),
        ("max_bytes", max_bytes if max_bytes is DEFAULT else whole(max_bytes)),
        ("validator", validate),
        ("forked", fork if fork is DEFAULT else fork == "keep"),
    )
    with kind.budget:
        for rule, value in rules:
            if value is not DEFAULT:
                setattr(kind, rule, value)
        kind.watch()
        limited = kind.max_live is not None or kind.max_bytes is not None
        # Walked only where a limit is new.
        kind.limit(reversed(open_records(registry)) if limited and kind.alive is None else ())
