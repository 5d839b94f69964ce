"""The last reference to a running QThread goes.

pip install PySide6-Essentials
"""

import time

from PySide6.QtCore import QCoreApplication, QThread


class Worker(QThread):
    def run(self):
        time.sleep(1)


def begin():
    worker = Worker()
    worker.start()


application = QCoreApplication([])
begin()
print("working")
