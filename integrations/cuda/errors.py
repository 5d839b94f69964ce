"""The errors of CUDA, beside those of `lifecycle` itself."""

from __future__ import annotations

from lifecycle.integrations.gpu.errors import GPUError


class CUDAError(GPUError):
    """CUDA cannot do what was asked, or said that it has failed. ``code`` is what the driver answered, 0
    where it was not asked."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code: int = code
