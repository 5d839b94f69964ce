"""Guarded: the last reference to a running QThread goes.

pip install PySide6-Essentials
"""

import time

from PySide6.QtCore import QCoreApplication, QThread

from lifecycle import BACKGROUND, SafetyManager

manager = SafetyManager()


class Worker(QThread):
    def run(self):
        time.sleep(1)


def begin():
    worker = manager.proxy(Worker(), release="wait", release_on=BACKGROUND)
    worker.start()


application = QCoreApplication([])
begin()
print("working")
