"""Guarded: a SoundFile is closed while another thread reads from it.

pip install soundfile numpy
"""

import pathlib
import tempfile
import threading
import time

import numpy as np
import soundfile

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()

path = str(pathlib.Path(tempfile.mkdtemp()) / "music.flac")
soundfile.write(path, np.random.default_rng(0).random((400_000, 2)) - 0.5, 44100)


def read(file):
    try:
        while len(file.read(20_000)):
            pass
    except AccessRefusedError:  # closed between two reads
        pass


for _ in range(200):
    file = manager.proxy(soundfile.SoundFile(path), release="close")
    thread = threading.Thread(target=read, args=(file,))
    thread.start()
    time.sleep(0.003)
    file.close()
    thread.join()
print("survived")
