"""Guarded: a file-like object reads on a thread of its own, and there the collector frees an h5py object.

pip install h5py
"""

import concurrent.futures
import faulthandler
import gc
import io

import h5py

from lifecycle import BACKGROUND, SafetyManager

manager = SafetyManager()


class Remote(io.BytesIO):  # reads on a thread of its own, as fsspec and s3fs do
    def readinto(self, memory):
        def read():
            gc.collect()  # by chance in real life
            return io.BytesIO.readinto(self, memory)

        return concurrent.futures.ThreadPoolExecutor(1).submit(read).result()


stored = io.BytesIO()
with h5py.File(stored, "w") as out:
    out["x"] = range(1000)
faulthandler.dump_traceback_later(8, exit=True)
rules = {h5py.Dataset: lambda dataset: None}  # its last reference goes where this is called: on BACKGROUND
old = manager.proxy(
    h5py.File(io.BytesIO(stored.getvalue()), "r"), release="close", release_on=BACKGROUND, children=rules
)
cycle = [old["x"]]
cycle.append(cycle)  # a dataset in a garbage cycle, as in any object that knows its parent
del cycle, old
print(h5py.File(Remote(stored.getvalue()), "r")["x"][5])
