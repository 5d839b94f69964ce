"""Guarded: an array over a WebAssembly memory is kept, its store is not.

pip install wasmtime numpy
"""

import numpy as np
import wasmtime

from lifecycle import SafetyManager

manager = SafetyManager()


def memory():
    store = wasmtime.Store()
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, None)))
    handle = manager.register(memory, release=None, keep_alive=store)
    return handle.array(np.ctypeslib.as_array(memory.data_ptr(store), (65536,)))


print(memory()[1000])
