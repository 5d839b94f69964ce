"""`lifecycle.integrations.gpu.pyglet` under a shorter name."""

from lifecycle.integrations.gpu.pyglet import *  # noqa: F403
from lifecycle.integrations.gpu.pyglet import __all__ as __all__
