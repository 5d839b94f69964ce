"""`lifecycle.integrations.gpu.opengl` under a shorter name."""

from lifecycle.integrations.gpu.opengl import *  # noqa: F403
from lifecycle.integrations.gpu.opengl import __all__ as __all__
