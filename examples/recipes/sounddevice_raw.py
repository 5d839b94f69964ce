"""The last reference to a started stream goes, and PortAudio's thread calls the freed callback.

pip install sounddevice numpy; apt install libportaudio2 (ALSA's null device stands for the sound card)
"""

import gc
import os
import pathlib
import tempfile
import time

conf = pathlib.Path(tempfile.mkdtemp()) / "asound.conf"
conf.write_text("pcm.!default { type null }\nctl.!default { type null }\n")
os.environ["ALSA_CONFIG_PATH"] = str(conf)

import sounddevice


def play():
    stream = sounddevice.OutputStream(channels=1, callback=lambda out, frames, when, status: out.fill(0))
    stream.start()


for _ in range(20):
    play()
    gc.collect()
    rubbish = [bytes(1000) for _ in range(10_000)]
    time.sleep(0.2)
print("survived")
