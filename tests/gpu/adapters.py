"""Real wgpu devices for tests: Vulkan, on Mesa's software renderer where there is nothing else."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from typing import Any

ENVIRONMENT = {"WGPU_BACKEND_TYPE": "Vulkan"}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
if "XDG_RUNTIME_DIR" not in os.environ:
    os.environ["XDG_RUNTIME_DIR"] = tempfile.gettempdir()


@cache
def adapter() -> Any:
    """The adapter that wgpu gives, None where it gives none."""
    import wgpu

    try:
        return wgpu.gpu.request_adapter_sync()
    except RuntimeError:
        return None


def device() -> Any:
    """A device of its own."""
    return adapter().request_device_sync()
