"""What OpenGL itself knows: a second witness beside the library's own figures."""

from __future__ import annotations

from typing import Any

ASKED = 400
"""Names that are asked for: drivers give small numbers."""


def living() -> dict[str, int]:
    """How many objects of each kind the current context knows."""
    from OpenGL import GL

    questions = {
        "texture": GL.glIsTexture,
        "buffer": GL.glIsBuffer,
        "renderbuffer": GL.glIsRenderbuffer,
        "framebuffer": GL.glIsFramebuffer,
        "vertex_array": GL.glIsVertexArray,
        "sampler": GL.glIsSampler,
        "program": GL.glIsProgram,
    }
    return {kind: sum(bool(asks(name)) for name in range(1, ASKED)) for kind, asks in questions.items()}


def texture(width: int = 8, height: int = 8, form: Any = None, levels: int = 1) -> int:
    """A texture with storage."""
    from OpenGL import GL

    name = int(GL.glGenTextures(1))
    GL.glBindTexture(GL.GL_TEXTURE_2D, name)
    GL.glTexStorage2D(GL.GL_TEXTURE_2D, levels, GL.GL_RGBA8 if form is None else form, width, height)
    GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
    return name


def buffer(nbytes: int) -> int:
    """A buffer with storage."""
    from OpenGL import GL

    name = int(GL.glGenBuffers(1))
    GL.glBindBuffer(GL.GL_ARRAY_BUFFER, name)
    GL.glBufferData(GL.GL_ARRAY_BUFFER, nbytes, None, GL.GL_DYNAMIC_DRAW)
    GL.glBindBuffer(GL.GL_ARRAY_BUFFER, 0)
    return name


def vertex_array() -> int:
    """A vertex array that was bound once."""
    from OpenGL import GL

    name = int(GL.glGenVertexArrays(1))
    GL.glBindVertexArray(name)
    GL.glBindVertexArray(0)
    return name


def framebuffer() -> int:
    """A framebuffer that was bound once."""
    from OpenGL import GL

    name = int(GL.glGenFramebuffers(1))
    GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, name)
    GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, 0)
    return name
