"""`lifecycle.integrations.gpu.wgpu` under a shorter name."""

from lifecycle.integrations.gpu.wgpu import *  # noqa: F403
from lifecycle.integrations.gpu.wgpu import __all__ as __all__
