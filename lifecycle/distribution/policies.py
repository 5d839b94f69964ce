"""What happens to a receiver that falls behind. One policy for each receiver; the publisher knows only those
that concern it."""

from __future__ import annotations

from typing import Any

import attrs

from lifecycle.errors import LifecycleError


def _above_zero(whole: bool) -> Any:
    def check(policy: Any, field: attrs.Attribute[Any], value: Any) -> None:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
            raise LifecycleError(
                f"{type(policy).__name__}({field.name}=) takes a {'whole ' if whole else ''}number above 0, "
                f"not {value!r}"
            )

    return check


@attrs.frozen
class Policy:
    """Base of the policies; not used itself."""


@attrs.frozen
class DropOldest(Policy):
    """The default: the receiver is told that it lagged, and goes on with the oldest frame that is still
    there."""


@attrs.frozen
class LatestOnly(Policy):
    """The receiver gets the newest frame whenever it asks. What it skips is counted as missed and never
    raised."""


@attrs.frozen
class KeepKeyFrames(Policy):
    """For streams whose frames build on each other: a receiver that lagged goes on with a key frame, and
    never gets a frame whose predecessor it has missed. The last `keep` overwritten key frames stay until it
    has caught up, beyond the capacity."""

    keep: int = attrs.field(default=4, validator=_above_zero(whole=True))
    """How many overwritten key frames stay."""


@attrs.frozen
class BlockPublisher(Policy):
    """`publish` waits up to `deadline` seconds for this receiver to make room; then the frame goes out, and
    the receiver lags. A thread that must not wait (`never_wait`, a garbage collection) does not."""

    deadline: float = attrs.field(default=0.1, validator=_above_zero(whole=False))
    """Seconds that one `publish` waits for this receiver at most."""


@attrs.frozen
class EvictAfter(Policy):
    """The receiver is thrown out at its lag number `lags`. One that does not ask at all lags once for each
    time the whole ring passes it by, so a dead one is thrown out too."""

    lags: int = attrs.field(default=3, validator=_above_zero(whole=True))
    """The lag that throws the receiver out."""


POLICIES: dict[str, Policy] = {
    "drop-oldest": DropOldest(),
    "latest-only": LatestOnly(),
    "keep-key-frames": KeepKeyFrames(),
    "block": BlockPublisher(),
    "evict": EvictAfter(),
}
"""The policies by name, with their defaults."""


def policy_of(policy: Policy | str) -> Policy:
    """The policy that is meant; raises `LifecycleError`."""
    if isinstance(policy, str) and policy in POLICIES:
        return POLICIES[policy]
    if isinstance(policy, Policy) and type(policy) is not Policy:
        return policy
    raise LifecycleError(
        f"policy= takes one of {', '.join(map(repr, POLICIES))} or a policy such as EvictAfter(lags=3), not "
        f"{policy!r}"
    )
