"""`lifecycle.integrations.gpu.vispy` under a shorter name."""

from lifecycle.integrations.gpu.vispy import *  # noqa: F403
from lifecycle.integrations.gpu.vispy import __all__ as __all__
