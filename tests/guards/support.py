"""What interrupted guards need of a test."""

from __future__ import annotations

import gc
import warnings


def let_go(error: BaseException | None) -> None:
    """Forget the frames of `error`, and with them every guard that only they held; what runs then may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while error is not None:
            error.__traceback__ = None
            error = error.__context__
        gc.collect(1)
