"""What is sent beside the frames, and sessions that are opened here."""

from __future__ import annotations

from typing import Any, Final

from lifecycle.integrations.across.errors import MissingTransportError, TopicError, TransportError
from lifecycle.integrations.across.receiving import check_name

try:
    import zenoh
except ImportError as error:
    raise MissingTransportError(
        f"zenoh cannot be imported ({error}): pip install 'native-lifecycle[zenoh]'"
    ) from error

__all__ = ["END", "HELLO", "LIFE", "key_of", "session_of", "zenoh"]

LIFE: Final = "@life"
"""Behind the topic, with the number of a life: the token of a publisher that lives."""
END: Final = "@end"
"""Behind the topic: a publisher that closes tells its last figures here."""

HELLO: Final = "@hello"
"""Behind the topic, with the number of a life: its publisher answers what is asked here. An answer says that
it knows every subscription that the asker had made before."""


def key_of(name: object) -> str:
    """The topic's name, where it can be one. Raises `TopicError`."""
    checked = check_name(name)
    try:
        zenoh.KeyExpr(checked)
    except zenoh.ZError as error:
        raise TopicError(f"{checked!r} is no topic's name: zenoh says {error}") from None
    if any(letter in checked for letter in "*$@?#"):
        raise TopicError(f"{checked!r} names no single topic: leave out * $ @ ? #")
    return checked


def session_of(session: Any, name: str) -> tuple[Any, bool]:
    """The session to use, and whether it was opened here. Raises `TransportError`."""
    if session is None:
        try:
            return zenoh.open(zenoh.Config()), True
        except zenoh.ZError as error:
            raise TransportError(f"topic {name!r} cannot be opened: zenoh says {error}") from None
    if not isinstance(session, zenoh.Session):
        raise TopicError(f"session= of topic {name!r} takes a zenoh.Session or None, not {session!r}")
    if session.is_closed():
        raise TransportError(f"the zenoh session given to topic {name!r} is closed: open another")
    return session, False
