"""The errors of the GPU adapters, beside those of `lifecycle` itself."""

from __future__ import annotations

from lifecycle import LifecycleError


class GPUError(LifecycleError):
    """Base of what the adapters of GPU libraries raise on purpose, before the native call."""


class GLError(GPUError):
    """OpenGL cannot do what was asked: no driver, no context, a kind of object or a version that is not
    there, a name that names nothing."""


class TransferError(GPUError, ValueError):
    """An array, a range or a format does not fit what it is to be copied to or from. Nothing was copied."""


class DeviceError(GPUError):
    """A device cannot be used as asked, or has changed in a way that the adapter does not know."""
