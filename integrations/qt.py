"""`lifecycle.integrations.gpu.qt` under a shorter name."""

from lifecycle.integrations.gpu.qt import *  # noqa: F403
from lifecycle.integrations.gpu.qt import __all__ as __all__
