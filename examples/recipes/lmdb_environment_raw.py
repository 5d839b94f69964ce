"""A value of buffers=True is used after its environment was closed, which unmaps the file.

pip install lmdb
"""

import tempfile

import lmdb

env = lmdb.open(tempfile.mkdtemp(), map_size=1 << 26)
with env.begin(write=True) as txn:
    txn.put(b"picture", b"\7" * 100_000)
with env.begin(buffers=True) as txn:
    picture = txn.get(b"picture")
print(picture[0], flush=True)
env.close()
print(picture[0])
