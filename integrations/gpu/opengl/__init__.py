"""OpenGL, in whatever context is current: PyOpenGL, moderngl, Qt, pyglet, vispy, EGL, GLX.

::

    domain = adopt()                                  # once, with the context current
    texture = domain.own("texture", glGenTextures(1))
    with domain.submission() as work:
        glBindTexture(GL_TEXTURE_2D, work.use(texture))
        glDrawArrays(GL_TRIANGLES, 0, 3)
    texture.close()                                   # deleted once it was drawn, where its name is valid
    domain.drain()                                    # once a frame

- `domain`: adopting a context; owning its objects; submissions, and the end of a context
- `debug`: the driver's messages
- `fences`: sync objects of OpenGL and EGL as fences
- `mapping`: mapped memory, and views that cannot outlive it
- `names`: the kinds of objects, and how each is deleted
- `ring`: memory that is written while the device reads other parts of it
- `state`: restoring the state of OpenGL after a block
- `textures`: a cache of textures that is rebuilt on a change of context
- `toolkits`: contexts that tell of their end
- `transfers`: checked copies between arrays and textures
- `worlds`: share groups and contexts, and whether they are current
"""

from __future__ import annotations

from lifecycle.integrations.gpu.errors import GLError, GPUError, TransferError
from lifecycle.integrations.gpu.opengl.debug import DebugMessage
from lifecycle.integrations.gpu.opengl.domain import Domain, DomainStats, DomainSubmission, adopt
from lifecycle.integrations.gpu.opengl.fences import EGLFence, GLFence
from lifecycle.integrations.gpu.opengl.mapping import Mapping
from lifecycle.integrations.gpu.opengl.ring import Ring
from lifecycle.integrations.gpu.opengl.state import StateGuard
from lifecycle.integrations.gpu.opengl.textures import CacheStats, TextureCache

__all__ = [
    "CacheStats",
    "DebugMessage",
    "Domain",
    "DomainStats",
    "DomainSubmission",
    "EGLFence",
    "GLError",
    "GLFence",
    "GPUError",
    "Mapping",
    "Ring",
    "StateGuard",
    "TextureCache",
    "TransferError",
    "adopt",
]
