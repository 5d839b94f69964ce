"""`lifecycle.integrations.gpu.moderngl` under a shorter name."""

from lifecycle.integrations.gpu.moderngl import *  # noqa: F403
from lifecycle.integrations.gpu.moderngl import __all__ as __all__
