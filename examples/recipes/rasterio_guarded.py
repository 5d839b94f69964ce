"""Guarded: a dataset is closed while another thread reads from it.

pip install rasterio
"""

import pathlib
import tempfile
import threading
import time

import numpy as np
import rasterio

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()

path = str(pathlib.Path(tempfile.mkdtemp()) / "map.tif")
facts = {"width": 2048, "height": 2048, "count": 1, "dtype": "uint8", "compress": "deflate"}
with rasterio.open(path, "w", driver="GTiff", **facts) as out:
    out.write(np.full((1, 2048, 2048), 7, np.uint8))


def read(dataset):
    try:
        while True:
            dataset.read(1)
    except AccessRefusedError:  # closed between two reads
        pass


for _ in range(200):
    dataset = manager.proxy(rasterio.open(path), release="close")
    thread = threading.Thread(target=read, args=(dataset,))
    thread.start()
    time.sleep(0.002)
    dataset.close()
    thread.join()
print("survived")
