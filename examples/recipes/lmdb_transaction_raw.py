"""A value of buffers=True is used after its transaction, and writers take its page.

pip install lmdb
"""

import tempfile

import lmdb

env = lmdb.open(tempfile.mkdtemp(), map_size=1 << 26)


def put(byte):
    with env.begin(write=True) as txn:
        for key in range(100):
            txn.put(b"%d" % key, bytes([byte]) * 1000)


put(7)
with env.begin(buffers=True) as txn:
    value = txn.get(b"42")
print(value[0], "at first")
for byte in range(100, 120):
    put(byte)
print(value[0], "after others have written")
