"""DLPack and the array interfaces: memory handed to other libraries, and taken from them, without a copy.

::

    it = tensor(handle, address, shape=(480, 640, 3))   # holds the object, as a view does
    array = torch.from_dlpack(it)                       # so does this, until torch frees it
    handle.close()                                      # released when the last of them is gone

    handle = from_dlpack(numpy_array)                   # owned here, given back once
    with handle.lease() as it:
        print(it.address, it.shape, it.dtype)

Nothing of Python runs where the other library gives memory back. Whoever waits for an object looks whether it
was (`close`, `exclusive`, pools, the manager's own thread), and so does `sweep`.

- `tensors`: exports
- `imports`: imports
- `dtypes`: types of elements
- `errors`: its error
- `_native`: structures and capsules
"""

from __future__ import annotations

from lifecycle.integrations.dlpack.errors import DLPackError
from lifecycle.integrations.dlpack.imports import Imported, from_dlpack
from lifecycle.integrations.dlpack.tensors import Tensor, tensor
from lifecycle.lowlevel import sweep_exports as sweep

__all__ = ["DLPackError", "Imported", "Tensor", "from_dlpack", "sweep", "tensor"]
