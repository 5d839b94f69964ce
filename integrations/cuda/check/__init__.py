"""All of this on a device, as a table: ``python -m lifecycle.integrations.cuda.check``.

It needs the driver alone, takes well under two minutes, and tries PyTorch, CuPy and Numba where they are
installed. It ends with 0 where everything held, with 1 where something did not, and with 2 where there is no
device.

- `__main__`: ``python -m``
- `run`: the table, and the program
- `driver`: checks that need the driver alone
- `processes`: checks in a process of their own
- `libraries`: checks with PyTorch, CuPy and Numba
- `bench`: what the checks have in common
"""

from __future__ import annotations

from lifecycle.integrations.cuda.check.run import main

__all__ = ["main"]
