"""Guarded: a value of buffers=True is used after its transaction, and writers take its page.

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


def put(byte):
    with env.begin(write=True) as txn:
        for key in range(100):
            txn.put(b"%d" % key, bytes([byte]) * 1000)


put(7)
value = env.begin(buffers=True).get(b"42")
print(value[0], "at first")
for byte in range(100, 120):
    put(byte)
print(value[0], "after others have written")
del value  # the last that held it: it is released now
