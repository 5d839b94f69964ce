"""The kinds of OpenGL objects: how one is asked for and deleted, and which world it belongs to.

A release is one call of C: `functools.partial` of the driver's own function. Between "not yet" and "deleted"
no interrupt can fall.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import attrs

from lifecycle.errors import shown
from lifecycle.integrations.gpu._native import INT, UINT, function
from lifecycle.integrations.gpu.errors import GLError, TransferError


@attrs.frozen
class Kind:
    """One kind of object."""

    name: str
    asks: str
    deletes: str
    shared: bool
    """True if it belongs to the share group; False: to one context."""
    single: bool = False
    """True if its delete takes one name, and not an array of them."""


KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("texture", "glIsTexture", "glDeleteTextures", True),
        Kind("buffer", "glIsBuffer", "glDeleteBuffers", True),
        Kind("renderbuffer", "glIsRenderbuffer", "glDeleteRenderbuffers", True),
        Kind("sampler", "glIsSampler", "glDeleteSamplers", True),
        Kind("program", "glIsProgram", "glDeleteProgram", True, single=True),
        Kind("shader", "glIsShader", "glDeleteShader", True, single=True),
        Kind("vertex_array", "glIsVertexArray", "glDeleteVertexArrays", False),
        Kind("framebuffer", "glIsFramebuffer", "glDeleteFramebuffers", False),
        Kind("query", "glIsQuery", "glDeleteQueries", False),
        Kind("program_pipeline", "glIsProgramPipeline", "glDeleteProgramPipelines", False),
        Kind("transform_feedback", "glIsTransformFeedback", "glDeleteTransformFeedbacks", False),
    )
}


def kind_of(name: object) -> Kind:
    """The kind of that name. Raises `GLError` for one that there is none of."""
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise GLError(f"{name!r} is no kind of OpenGL object; the kinds are {', '.join(KINDS)}")
    return kind


def check_text(name: object, call: str) -> None:
    """Raise `GLError` unless `name` is a text that is not empty, to be shown in messages and metrics."""
    if not isinstance(name, str) or not name:
        raise GLError(f"{call} takes a name, not {name!r}")


def check_name(kind: Kind, name: Any) -> int:
    """`name` as an int. Raises `GLError` unless it names an object of that kind in what is current."""
    if isinstance(name, bool) or not hasattr(name, "__index__"):
        raise GLError(f"a {kind.name} is named by a whole number, not by {name!r}")
    try:
        number = name.__index__()
    except TypeError as error:  # an array of several
        raise GLError(f"a {kind.name} is named by a whole number, not by {name!r}: {error}") from None
    if not isinstance(number, int) or not 0 < number < 1 << 32:
        raise GLError(f"{number} names no {kind.name}: names are whole numbers above 0")
    if not function(kind.asks)(number):
        raise GLError(
            f"{number} names no {kind.name} in the context that is current here: it was deleted, is of "
            "another "
            "kind or context, or was generated and never bound"
        )
    return number


def check_leased(kind: Kind, name: Any, handle: Any, error: type[GLError | TransferError]) -> None:
    """Raise `error` unless what a handle has leased is the name of an object of that kind that is there. A
    call of OpenGL that is given another only sets its error flag."""
    if isinstance(name, bool) or not isinstance(name, int):
        raise error(
            f"{handle!r} stands for {shown(name)} and for no name of a {kind.name}: give the handle that "
            f"own({kind.name!r}, name) gave"
        )
    if not function(kind.asks)(name):
        raise error(f"{kind.name} {name} is gone: it was deleted by its name, and not by its handle")


def deleter(kind: Kind, name: int) -> Callable[[Any], object]:
    """The release of one object. It is called with the name as well, which C leaves aside."""
    delete = function(kind.deletes)
    if kind.single:
        return delete
    return functools.partial(delete, INT(1), (UINT * 1)(name))
