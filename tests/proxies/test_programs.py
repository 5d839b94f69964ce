"""Programs that end the process when they are written plainly, each guarded by the one line.

Each runs in a process of its own, raw and guarded. The raw form is run to show that the guarded one could have
failed; what it does is up to the library's version, so that is not asserted but for sqlite3.
"""

from __future__ import annotations

import sys
import textwrap

import pytest

from tests.support import Finished, run_python

GUARD = (
    "from lifecycle import SafetyManager\nfrom lifecycle.proxies import Child\nmanager = SafetyManager()\n"
)


def guarded(program: str, timeout: float = 60) -> Finished:
    return run_python(GUARD + textwrap.dedent(program), timeout=timeout)


# -- sqlite3 -------------------------------------------------------------------------------------------------

INSIDE_ITS_OWN_QUERY = """
import sqlite3
connection = {made}
connection.execute("create table t(x)")
connection.executemany("insert into t values(?)", [(1,), (2,)])
connection.create_function("stop", 1, lambda x: connection.close())
try:
    connection.execute("select stop(x) from t").fetchall()
    connection.execute("select 1")
except Exception as error:
    print(type(error).__name__)
"""
GUARDED_SQLITE = (
    'manager.proxy(sqlite3.connect(":memory:"), release="close", children={sqlite3.Cursor: None})'
)


def test_sqlite3_closed_inside_its_own_query() -> None:
    raw = run_python(INSIDE_ITS_OWN_QUERY.format(made='sqlite3.connect(":memory:")'))
    if raw.rc >= 0:
        pytest.skip("this SQLite survives it")
    done = guarded(INSIDE_ITS_OWN_QUERY.replace("{made}", GUARDED_SQLITE))
    assert done.check().strip() == "AccessRefusedError"


CLOSED_WHILE_QUERYING = """
import sqlite3, threading, time

def query(connection, told):
    try:
        while True:
            connection.execute("select a.x, b.x from t a, t b limit 3000").fetchall()
    except Exception as error:
        told.append(type(error).__name__)

told = []
for _ in range(ROUNDS):
    raw = sqlite3.connect(":memory:", check_same_thread=False)
    connection = MADE
    connection.execute("create table t(x)")
    connection.executemany("insert into t values(?)", [(number,) for number in range(3000)])
    thread = threading.Thread(target=query, args=(connection, told))
    thread.start()
    time.sleep(0.002)
    connection.close()
    thread.join()
print(len(told), *sorted(set(told)))
"""


def test_sqlite3_closed_while_another_thread_queries() -> None:
    made = 'manager.proxy(raw, release="close", children={sqlite3.Cursor: None})'
    done = guarded(CLOSED_WHILE_QUERYING.replace("MADE", made).replace("ROUNDS", "60"))
    assert done.check().split() == ["60", "AccessRefusedError"]


def test_what_works_with_sqlite3_works_behind_a_proxy() -> None:
    done = guarded(
        """
        import sqlite3
        rules = {sqlite3.Cursor: None}
        connection = manager.proxy(sqlite3.connect(":memory:"), release="close", children=rules)
        other = manager.proxy(sqlite3.connect(":memory:"), release="close", children=rules)
        with connection as same:
            assert same is connection
            connection.execute("create table t(x, y)")
            connection.executemany("insert into t values(?, ?)", [(1, "a"), (2, "b")])
        cursor = connection.cursor()
        assert cursor.execute("select * from t") is cursor
        assert list(cursor) == [(1, "a"), (2, "b")]
        assert cursor.connection is connection
        assert [row for row in connection.execute("select x from t")] == [(1,), (2,)]
        connection.row_factory = sqlite3.Row
        assert connection.row_factory is sqlite3.Row
        row = connection.execute("select * from t").fetchone()
        assert row["y"] == "a", row
        connection.row_factory = None
        connection.create_function("double", 1, lambda x: 2 * x)
        assert connection.execute("select double(x) from t").fetchall() == [(2,), (4,)]
        assert len(list(connection.iterdump())) == 5
        connection.backup(other)
        assert other.execute("select count(*) from t").fetchone() == (2,)
        assert connection.total_changes == 2
        assert isinstance(connection, sqlite3.Connection)
        try:
            connection.execute("select nonsense")
        except sqlite3.OperationalError as error:
            print(error)
        print(connection.close(), other.close(), manager.close().ok)
        """
    )
    assert done.check().split("\n")[:2] == ["no such column: nonsense", "True True True"]


# -- others, where they are installed ------------------------------------------------------------------------


@pytest.mark.needs("lmdb")
def test_lmdb_memory_outlives_its_environment() -> None:
    done = guarded(
        """
        import lmdb, tempfile
        env = manager.proxy(
            lmdb.open(tempfile.mkdtemp(), map_size=1 << 26),
            release="close",
            children={lmdb.Transaction: Child("abort", ends=("commit", "__exit__")), lmdb.Cursor: None},
        )
        with env.begin(write=True) as txn:
            txn.put(b"k", b"0123456789" * 10_000)
        def load():
            return env.begin(buffers=True).get(b"k")
        value = load()
        for number in range(19):
            with env.begin(write=True) as txn:
                txn.put(b"%d" % number, b"x" * 10_000)
        env.close()
        print(bytes(value[:3]))
        del value
        writing = None
        """
    )
    assert done.check().strip() == "b'012'"


@pytest.mark.needs("lmdb")
def test_lmdb_an_end_with_a_view_alive_is_refused() -> None:
    done = guarded(
        """
        import lmdb, tempfile
        env = manager.proxy(
            lmdb.open(tempfile.mkdtemp(), map_size=1 << 26),
            release="close",
            children={lmdb.Transaction: Child("abort", ends=("commit", "__exit__")), lmdb.Cursor: None},
        )
        txn = env.begin(write=True, buffers=True)
        txn.put(b"k", b"value")
        view = txn.get(b"k")
        try:
            txn.commit()
        except Exception as error:
            print(type(error).__name__)
        print(bytes(view))
        cursor = txn.cursor()
        print(cursor.first(), [bytes(value) for key, value in cursor])
        del view
        txn.commit()
        print(env.stat()["entries"])
        for use in (cursor.first, lambda: txn.get(b"k")):
            try:
                use()
            except Exception as error:
                print(type(error).__name__)
        print(env.close())
        """
    )
    assert done.check().split("\n")[:7] == [
        "HeldError",
        "b'value'",
        "True [b'value']",
        "1",
        "AccessRefusedError",
        "AccessRefusedError",
        "True",
    ]


@pytest.mark.needs("av", "numpy")
def test_pyav_closed_under_its_own_generator() -> None:
    done = guarded(
        """
        import av, numpy, tempfile, threading, time
        path = tempfile.mkdtemp() + "/v.mp4"
        with av.open(path, "w") as out:
            stream = out.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 64
            for number in range(200):
                frame = av.VideoFrame.from_ndarray(numpy.full((64, 64, 3), number, numpy.uint8), format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        told = []
        for _ in range(20):
            container = manager.proxy(av.open(path), release="close", children={av.VideoFrame: None})
            def decode():
                try:
                    while True:
                        for frame in container.decode(video=0):
                            frame.width
                        container.seek(0)
                except Exception as error:
                    told.append(type(error).__name__)
            thread = threading.Thread(target=decode)
            thread.start()
            time.sleep(0.01)
            container.close()
            thread.join()
        print(len(told), *set(told))
        """
    )
    assert done.check().split() == ["20", "AccessRefusedError"]


@pytest.mark.needs("cv2", "numpy")
def test_opencv_capture_released_under_a_read() -> None:
    done = guarded(
        """
        import cv2, numpy, tempfile, threading, time
        path = tempfile.mkdtemp() + "/v.avi"
        out = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
        for number in range(100):
            out.write(numpy.full((240, 320, 3), number, numpy.uint8))
        out.release()
        told = []
        for _ in range(30):
            capture = manager.proxy(cv2.VideoCapture(path), release="release")
            def read():
                try:
                    while True:
                        if not capture.read()[0]:
                            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                except Exception as error:
                    told.append(type(error).__name__)
            thread = threading.Thread(target=read)
            thread.start()
            time.sleep(0.01)
            capture.release()
            thread.join()
        print(len(told), *set(told))
        """
    )
    assert done.check().split() == ["30", "AccessRefusedError"]


@pytest.mark.needs("h5py", "numpy")
def test_h5py_behind_a_proxy() -> None:
    done = guarded(
        """
        import h5py, numpy as np, tempfile
        path = tempfile.mkdtemp() + "/f.h5"
        file = manager.proxy(h5py.File(path, "w"), release="close", children={h5py.Group: None, h5py.Dataset: None})
        group = file.create_group("g")
        data = group.create_dataset("d", data=np.arange(10))
        data.attrs["unit"] = "m"
        assert file["g"]["d"].shape == (10,)
        assert list(file["g/d"][2:4]) == [2, 3]
        assert np.asarray(data).sum() == 45
        assert dict(data.attrs) == {"unit": "m"}
        assert [key for key in file.keys()] == ["g"]
        assert [(name, type(one).__name__) for name, one in group.items()] == [("d", "DatasetProxy")]
        file.copy(data, "e")
        assert "e" in file
        assert data.file is not None
        assert isinstance(data, h5py.Dataset)
        items = group.items()
        print(file.close())
        for use in (lambda: data[0], lambda: list(items), lambda: file["g"], lambda: group.name):
            try:
                print("used", use())
            except Exception as error:
                print(type(error).__name__)
        """
    )
    assert done.check().split() == ["True", *["AccessRefusedError"] * 4]


@pytest.mark.needs("pillow")
def test_pillow_behind_a_proxy() -> None:
    done = guarded(
        """
        from PIL import Image, ImageDraw
        import io
        picture = manager.proxy(Image.new("RGB", (8, 8)), release="close", children={Image.Image: None})
        other = manager.proxy(Image.new("RGB", (4, 4), "red"), release="close", children={Image.Image: None})
        picture.paste(other, (0, 0))
        assert picture.getpixel((1, 1)) == (255, 0, 0)
        assert picture.size == (8, 8)
        grey = picture.convert("L")
        assert type(grey) is not Image.Image and grey.size == (8, 8)
        assert grey.resize((2, 2)).size == (2, 2)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        ImageDraw.Draw(picture).point((2, 2), "blue")
        assert picture.getpixel((2, 2)) == (0, 0, 255)
        picture.close()
        try:
            grey.size
        except Exception as error:
            print(type(error).__name__)
        other.close()
        """
    )
    assert done.check().strip() == "AccessRefusedError"


@pytest.mark.skipif(sys.platform == "win32", reason="the program is made for POSIX")
def test_a_mapping_closed_under_its_reader() -> None:
    """mmap is in the standard library: its memory, kept beyond `close`."""
    done = guarded(
        """
        import mmap
        from lifecycle.proxies import VIEW
        class Mapped:
            def __init__(self):
                self.map = mmap.mmap(-1, 4096)
                self.map[:3] = b"abc"
            def memory(self):
                return memoryview(self.map)
            def close(self):
                self.map.close()
        mapped = manager.proxy(Mapped(), release="close")
        view = mapped.memory()
        print(mapped.close(), bytes(view[:3]))
        del view
        print(manager.close().ok)
        """
    )
    assert done.check().split() == ["False", "b'abc'", "True"]
