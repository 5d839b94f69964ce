"""Guarded: a value of buffers=True is used after its environment was closed, which unmaps the file.

pip install lmdb
"""

import tempfile

import lmdb

from lifecycle import SafetyManager
from lifecycle.proxies import Child

manager = SafetyManager()

env = manager.proxy(
    lmdb.open(tempfile.mkdtemp(), map_size=1 << 26),
    release="close",
    children={lmdb.Transaction: Child("abort", ends=("commit", "__exit__"))},
)
with env.begin(write=True) as txn:
    txn.put(b"picture", b"\7" * 100_000)
picture = env.begin(buffers=True).get(b"picture")
print(picture[0])
env.close()
print(picture[0])
del picture  # the last that held it: it is released now
