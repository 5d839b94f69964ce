"""Guarded: a connection is closed while another thread is inside a query."""

import sqlite3
import threading
import time

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()


def query(connection):
    try:
        while True:
            connection.execute("select a.x, b.x from t a, t b limit 3000").fetchall()
    except AccessRefusedError:  # closed between two queries
        pass


for number in range(400):
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection = manager.proxy(connection, release="close", children={sqlite3.Cursor: None})
    connection.execute("create table t(x)")
    connection.executemany("insert into t values(?)", [(row,) for row in range(3000)])
    thread = threading.Thread(target=query, args=(connection,))
    thread.start()
    time.sleep(0.0002 * (number % 25))
    connection.close()
    thread.join()
print("survived")
