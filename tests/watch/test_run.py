"""``lifecycle run``: the program's output, exceptions and status stay its own, and what it does wrong is told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lifecycle.cli.main import main
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import read
from tests.recorder.scenes import QUIET, start
from tests.support import ROOT, Finished, Refusal

posix = pytest.mark.skipif(os.name != "posix", reason="the program takes this process's place with exec")
WATCH = [
    word
    for target in ("socket:socket.close", "zipfile:ZipFile.close", "pump:Pump.close", "pump:Born.close")
    for word in ("--watch", target)
]

PUMP = """
class Pump:
    '''A class of a library.'''

    def __init__(self, fails=False):
        self.open = True
        if fails:
            raise OSError("no pump")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.open = False

    def push(self):
        if not self.open:
            raise ValueError("closed")
        return "pushed"

    def is_open(self):
        return self.open

class Loud(Pump):
    def close(self):
        print("closing")
        super().close()

class Own(Pump):
    def close(self):
        self.open = None

class Born:
    def __new__(cls, *args):
        return super().__new__(cls)

    def close(self):
        pass

class Slim:
    __slots__ = ("x",)
    def close(self):
        pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pump.py").write_text(PUMP, encoding="utf-8")
    return tmp_path


def write(folder: Path, code: str) -> None:
    (folder / "app.py").write_text(textwrap.dedent(code), encoding="utf-8")


def run(folder: Path, code: str, *targets: str, verbose: bool = False) -> Finished:
    """Run `code` as ``lifecycle run`` starts it, without the start of another interpreter for that."""
    write(folder, code)
    order = {"watch": targets, "verbose": verbose, "to": "", "pid": 0}
    site = ROOT / "lifecycle" / "watch" / "site"
    # The id of the main process is not known before: what it alone says is asked for by `verbose`.
    return start(folder, "app.py", env={"LIFECYCLE_RUN": json.dumps(order), "PYTHONPATH": str(site)})


def told(folder: Path, code: str, *targets: str, verbose: bool = False) -> list[str]:
    done = run(folder, code, *(targets or ("pump:Pump.close",)), verbose=verbose)
    done.check()
    return done.stderr.splitlines()


# -- its own -------------------------------------------------------------------------------------------------

PROGRAMS = {
    "exception": """
        import pump, zipfile
        print(type(zipfile.__loader__), zipfile.__spec__.loader is zipfile.__loader__)
        try:
            pump.Pump(fails=True)
        except OSError:
            with pump.Loud() as tap:
                tap.push(1, 2)
    """,
    "identities": """
        import atexit, os, pickle, pump, inspect, socket, sys, traceback
        atexit.register(print, "exit hook")
        print(__name__, sys.argv, "sitecustomize" in sys.modules)
        tap = pump.Pump()
        print(type(tap.push), tap.push.__func__ is pump.Pump.push, type(pump.Pump.push), tap.push())
        print(tap.close.__name__, tap.close == tap.close, inspect.signature(tap.close))
        print(inspect.ismethod(tap.close), type(tap) is pump.Pump, repr(type(tap)))
        class Base:
            def __init__(self, size):
                self.size = 1 / size
        class Both(pump.Born, Base):
            pass
        both = Both(2)
        print(both.size)
        both.close()
        try:
            Both(0)
        except ZeroDivisionError as error:
            print([entry.name for entry in traceback.extract_tb(error.__traceback__)])
        import zipfile
        print([str(one).partition(" at ")[0] for one in sys.meta_path])
        print([path for path in sys.path if "site" in path])
        tap.close()
        pickle.loads(pickle.dumps(tap)).close()
        left, right = socket.socketpair()
        # libffi keeps its own file open where it makes trampolines, as the library has it do.
        others = [f"/proc/self/fd/{number}" for number in range(3, left.fileno())]
        print([one for one in others if "libffi" not in os.path.realpath(one)])
        left.close(), right.close()
        sys.exit(7)
    """,
    "spawned": """
        import multiprocessing, os
        def child():
            import pump
            with pump.Pump() as tap:
                print("child", tap.push(), flush=True)
        if __name__ == "__main__":
            for how in ("spawn", "fork"):
                process = multiprocessing.get_context(how).Process(target=child)
                process.start()
                process.join()
                print(process.exitcode, flush=True)
    """,
}
STATUS = {"exception": 1, "identities": 7, "spawned": 0}


@posix
@pytest.mark.parametrize("name", PROGRAMS)
def test_output_and_status_are_the_programs_own(folder: Path, name: str) -> None:
    if name == "spawned" and sys.platform != "linux":
        pytest.skip("fork and spawn")
    write(folder, PROGRAMS[name])
    words = ("app.py", "-x", "--to", "y")
    plain = start(folder, *words)
    assert (plain.rc, "SyntaxError" in plain.stderr) == (STATUS[name], False)
    watched = start(folder, "-m", "lifecycle", "run", *WATCH, "--to", "told", *words)
    assert (watched.rc, watched.stdout, watched.stderr) == (plain.rc, plain.stdout, plain.stderr)
    # Nothing wrong was done but for what the program itself was stopped by.
    lines = (folder / "told").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "was never imported" not in line] == []


@posix
def test_ctrl_c_is_the_programs_own(folder: Path) -> None:
    write(folder, "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(0.01)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "lifecycle", "run", *WATCH, "--to", "told", "app.py"],
        env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")
    assert re.findall(r'File "(.*)"', err) == [f"{folder}/app.py"]


@posix
def test_its_own_sitecustomize_runs_as_it_would(folder: Path) -> None:
    """Also in a child that is given the path to ours, and not the order."""
    own = folder / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys\nsys.customised = __file__\n", encoding="utf-8")
    write(
        folder,
        """
        import os, subprocess, sys
        print(sys.customised, sys.modules["sitecustomize"].__file__, sys.path, flush=True)
        if "child" not in sys.argv:
            for left_out in ("", "LIFECYCLE_RUN"):
                env = {name: value for name, value in os.environ.items() if name != left_out}
                subprocess.run([sys.executable, __file__, "child"], env=env)
        """,
    )
    env = {"PYTHONPATH": os.pathsep.join((str(own), str(ROOT)))}
    plain = start(folder, "app.py", env=env)
    watched = start(folder, "-m", "lifecycle", "run", "app.py", env=env)
    assert plain.check().count(f"{own}/sitecustomize.py") == 6
    assert (watched.rc, watched.stdout, watched.stderr) == (0, plain.stdout, "")


@posix
def test_code_and_standard_input_are_programs_too(folder: Path) -> None:
    code = "import sys, pump; print(sys.argv); pump.Pump()"
    run = ("-m", "lifecycle", "run", "--watch", "pump:Pump.close")
    told = "lifecycle: never closed: pump.Pump made at <{}>:1\nlifecycle: 1 mistake, 0 risks; watched: pump.Pump (methods)\n"
    for words, stdin, argv, name in (
        (("-c", code, "-v"), "", ["-c", "-v"], "string"),
        (("-", "x"), code, ["-", "x"], "stdin"),
    ):
        done = start(folder, *run, *words, stdin=stdin)
        assert (done.rc, done.stdout, done.stderr) == (0, f"{argv}\n", told.format(name))


@posix
def test_a_named_pipe_is_a_script_and_standard_output_may_be_closed(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    words = [sys.executable, "-m", "lifecycle", "run", "pipe"]
    env = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(["sh", "-c", 'exec "$@" >&-', "sh", *words], env=env, cwd=folder)
    (folder / "pipe").write_text("raise SystemExit(9)", encoding="utf-8")
    assert process.wait(60) == 9


# -- told ----------------------------------------------------------------------------------------------------


def test_uses_behind_the_close_and_what_is_never_closed(folder: Path) -> None:
    lines = told(
        folder,
        """
        import sqlite3
        from pump import Loud, Own, Pump
        tap = Pump()
        tap.close()
        tap.is_open()
        try:
            tap.push()
        except ValueError:
            pass
        Pump()
        last = Pump()
        with Loud():
            pass
        Own().close()
        try:
            Pump(fails=True)
        except OSError:
            pass
        kept = sqlite3.connect(":memory:")
        with kept:
            kept.execute("select 1")
        kept.close()
        try:
            kept.execute("select 2")
        except sqlite3.ProgrammingError:
            pass
        """,
        "pump:Pump.close",
        "sqlite3:Connection.close",
    )
    assert lines == [
        "lifecycle: used after close: pump.Pump made at app.py:4: push() at app.py:8 raised ValueError; closed "
        "at app.py:5",
        "lifecycle: never closed: pump.Pump made at app.py:11",
        "lifecycle: used after close: sqlite3.Connection made at app.py:20: execute() at app.py:25 raised "
        "ProgrammingError; closed at app.py:23",
        "lifecycle: never closed before the end: pump.Pump made at app.py:12",
        "lifecycle: 4 mistakes, 0 risks; watched: pump.Pump (methods), sqlite3.Connection (factory)",
    ]


def test_risks_are_told_when_asked_for(folder: Path) -> None:
    code = """
        import threading
        from pump import Pump
        tap = Pump()
        thread = threading.Thread(target=lambda: tap.close())
        thread.start(), thread.join()
        tap.close()
    """
    assert told(folder, code) == []
    assert told(folder, code, verbose=True) == [
        "lifecycle: risk: closed on another thread: pump.Pump made at app.py:4: at app.py:5",
        "lifecycle: risk: closed twice: pump.Pump made at app.py:4: at app.py:7; closed at app.py:5",
        "lifecycle: 0 mistakes, 2 risks; watched: pump.Pump (methods)",
    ]


def test_a_child_that_was_forked_answers_for_its_own_objects(folder: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("fork")
    lines = told(
        folder,
        """
        import os
        from pump import Pump
        tap = Pump()
        if not os.fork():
            Pump()
            os._exit(0)
        os.wait()
        tap.close()
        """,
    )
    # `os._exit` has no summary.
    assert len(lines) == 1
    assert re.fullmatch(r"lifecycle \(\d+\): never closed: pump\.Pump made at app\.py:6", lines[0])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring")
def test_an_immutable_class_is_watched_by_its_calls(folder: Path) -> None:
    done = run(
        folder,
        """
        import mmap
        kept = mmap.mmap(-1, 4096)
        kept.write(b"x")
        kept.close()
        try:
            kept.read()
        except ValueError:
            pass
        """,
        "mmap:mmap.close",
    )
    done.check()
    assert done.stderr.splitlines() == [
        "lifecycle: used after close: mmap.mmap first seen at app.py:4: read() at app.py:7 raised an exception; "
        "closed at app.py:5",
        "lifecycle: 1 mistake, 0 risks; watched: mmap.mmap (calls)",
    ]


def test_what_cannot_be_watched_is_named(folder: Path) -> None:
    targets = (
        "pump:Slim.close",
        "pump:Nothing.close",
        "pump:Pump.shut",
        "pump:PUMP.close",
        "nowhere:A.close",
    )
    options = [word for target in targets for word in ("--watch", target)]
    write(folder, "import pump\npump.Slim().close()")
    done = start(folder, "-m", "lifecycle", "run", *options, "app.py")
    done.check()
    assert done.stderr.splitlines() == [
        "lifecycle: not watched: pump.Slim: its objects take no weak references",
        "lifecycle: not watched: pump.Nothing: pump has no Nothing",
        "lifecycle: not watched: pump.Pump: pump.Pump has no method shut",
        "lifecycle: not watched: pump.PUMP: pump has no PUMP",
        "lifecycle: not watched: nowhere.A: its module was never imported",
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fault's address is known on Linux")
@pytest.mark.parametrize(
    ("use", "named"),
    [
        ("eye.read()", "read() behind its close was the last that is known of the thread that crashed"),
        ("eye.size", "size behind its close was the last that is known of the thread that crashed"),
        # What came back is not what the process died of.
        ("(eye.is_open(), eye.state, __import__('ctypes').string_at(64, 1))", ""),
    ],
)
def test_a_crash_behind_the_close_names_object_and_line(folder: Path, use: str, named: str) -> None:
    (folder / "sensor.py").write_text(
        "import ctypes\n"
        "class Sensor:\n"
        "    def __init__(self): self.at = ctypes.c_int(3)\n"
        "    def close(self): self.at = None\n"
        "    def is_open(self): return self.at is not None\n"
        "    state = property(is_open)\n"
        "    def read(self): return look(self)\n"
        "    size = property(lambda self: look(self)[0])\n"
        "def look(eye): return ctypes.string_at(ctypes.addressof(eye.at) if eye.at else 64, 1)\n",
        encoding="utf-8",
    )
    write(
        folder,
        f"""
        import sensor, threading
        eye = sensor.Sensor()
        print(eye.read(), eye.size, eye.state)
        eye.close()
        thread = threading.Thread(target=lambda: {use}, name="reader")
        thread.start()
        thread.join()
        """,
    )
    words = ("--recorder", "app-{pid}.rec", "--watch", "sensor:Sensor.close", "app.py")
    done = start(folder, "-m", "lifecycle", "run", *words)
    assert done.rc == -signal.SIGSEGV
    (path,) = folder.glob("*.rec")
    report = analyse(read(path))
    assert report.recording.fault is not None
    assert report.recording.fault.address == 64
    if not named:
        assert not report.suspects
        return
    suspect = report.suspects[0]
    assert str(suspect.life) == "sensor.Sensor 1"
    assert suspect.why == named
    assert suspect.site.endswith("app.py:6")
    assert report.recording.thread(suspect.thread).startswith("reader ")


def test_a_module_that_is_looked_for_first_or_fails_first_is_watched(folder: Path) -> None:
    (folder / "late.py").write_text(
        "import builtins\nif not hasattr(builtins, 'ready'): raise ImportError('not yet')\nfrom pump import *\n"
        "class Late(Pump):\n    pass\n",
        encoding="utf-8",
    )
    lines = told(
        folder,
        """
        import builtins, importlib.util
        for name in ("pump", "late"):
            print(importlib.util.find_spec(name).name)
        try:
            import late
        except ImportError:
            builtins.ready = True
        import late
        late.Late()
        late.Pump()
        again = late.Late()
        again.__init__()
        again.close()
        """,
        "late:Late.close",
        "pump:Pump.close",
    )
    # Both classes see the same object, and one object is initialised twice: each is one.
    assert lines == [
        "lifecycle: never closed: late.Late made at app.py:10",
        "lifecycle: never closed: pump.Pump made at app.py:11",
        "lifecycle: 2 mistakes, 0 risks; watched: late.Late (methods), pump.Pump (methods)",
    ]


@posix
@pytest.mark.parametrize("to", ["", "told"])
def test_nothing_is_written_into_a_file_of_the_programs(folder: Path, to: str) -> None:
    """One that closes all descriptors, as a daemon does, and opens its own under their numbers."""
    write(
        folder,
        """
        import os
        from pump import Pump
        Pump()
        os.closerange(3, 2000)
        files = [os.open(f"file{number}", os.O_RDWR | os.O_CREAT) for number in range(720)]
        Pump()
        print({os.fstat(file).st_size for file in files})
        """,
    )
    words = ("--to", to) if to else ()
    done = start(folder, "-m", "lifecycle", "run", "--watch", "pump:Pump.close", *words, "app.py")
    assert done.check() == "{0}\n"
    first = "lifecycle: never closed: pump.Pump made at app.py:4\n"
    if to:
        lines = (folder / to).read_text(encoding="utf-8")
        assert lines.startswith(first + first.replace(":4", ":7"))
        assert done.stderr == ""
    else:
        # The copy of standard error is closed as well, and nobody knows what 2 is by now.
        assert done.stderr == first


def test_a_file_that_takes_nothing_is_told_once(folder: Path) -> None:
    write(folder, "from pump import Pump\nPump()\nPump()\n")
    done = start(
        folder, "-m", "lifecycle", "run", "--watch", "pump:Pump.close", "--to", "/dev/full", "app.py"
    )
    assert done.check() == ""
    assert done.stderr == "lifecycle: what is found cannot be written to /dev/full: No space left on device\n"


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "run what?"),
        (("-m",), "-m names a module"),
        (("-c",), "-c takes the program's code"),
        (("nowhere.py",), "the script nowhere.py cannot be read: No such file"),
        ((".",), ". is a folder without a __main__.py"),
        (("--watch", "h5py.File", "app.py"), "'h5py.File' names no class and closing method"),
        (("--to", "no/such/folder", "app.py"), "nothing can be written to"),
        (("--recorder", "no/such/a.rec", "app.py"), "no recorder at 'no/such/a.rec': there is no folder"),
        (("--recorder", "", "app.py"), "--recorder names no file"),
        (("a\0b",), "cannot be read"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    words: tuple[str, ...], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    write(folder, "")
    monkeypatch.chdir(folder)
    assert says in refusal("run", *words)


def test_a_leak_level_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--leaks", "much", "app.py"])
    assert ended.value.code == 2
    assert "invalid choice: 'much'" in capsys.readouterr().err


def test_a_leak_level_reaches_the_programs_managers(folder: Path) -> None:
    write(folder, "import lifecycle\nprint(lifecycle.SafetyConfig().leak_level)")
    done = start(folder, "-m", "lifecycle", "run", "--leaks", "paranoid", "app.py")
    assert done.check() == "paranoid\n"


def test_a_spoilt_order_stops_nothing(folder: Path) -> None:
    write(folder, "print('up')")
    site = ROOT / "lifecycle" / "watch" / "site"
    order = json.dumps({"watch": ["x"], "verbose": False, "to": "", "pid": 1})
    done = start(folder, "app.py", env={"LIFECYCLE_RUN": order, "PYTHONPATH": str(site)})
    assert done.check() == "up\n"
    assert done.stderr.startswith("lifecycle: nothing is watched: 'x' names no class")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fault's address is known on Linux")
@pytest.mark.parametrize(
    ("thread", "rule", "why"),
    [
        (
            "closer",
            "misuse",
            "close() on another thread than the one that made it was the last that is known of the thread that "
            "crashed",
        ),
        ("", "releasing", "its release has been running on MainThread"),
    ],
)
def test_a_crash_in_the_close_names_object_and_line(folder: Path, thread: str, rule: str, why: str) -> None:
    (folder / "sensor.py").write_text(
        "import ctypes\n"
        "class Sensor:\n"
        "    def __init__(self): self.at = ctypes.c_int(3)\n"
        "    def close(self): ctypes.memset(64, 0, 1)\n",
        encoding="utf-8",
    )
    call = "threading.Thread(target=lambda: eye.close(), name='closer').start()" if thread else "eye.close()"
    write(folder, f"import sensor, threading\neye = sensor.Sensor()\n{call}\nthreading.Event().wait(9)\n")
    words = ("--recorder", "app-{pid}.rec", "--watch", "sensor:Sensor.close", "-v", "app.py")
    done = start(folder, "-m", "lifecycle", "run", *words)
    assert done.rc == -signal.SIGSEGV
    told = "lifecycle: risk: closed on another thread: sensor.Sensor made at app.py:2: at app.py:3"
    assert (told in done.stderr.splitlines()) == bool(thread)
    (path,) = folder.glob("*.rec")
    suspect = analyse(read(path)).suspects[0]
    assert (str(suspect.life), suspect.rule, suspect.why[: len(why)]) == ("sensor.Sensor 1", rule, why)
    assert suspect.site.endswith("app.py:3")


def test_a_close_that_came_back_or_raised_is_no_suspect(folder: Path) -> None:
    (folder / "sensor.py").write_text(
        "class Sensor:\n"
        "    def __init__(self): pass\n"
        "    def __del__(self): self.close()\n"
        "    def close(self, error=None):\n"
        "        if error: raise error\n",
        encoding="utf-8",
    )
    write(
        folder,
        """
        import os, sensor, threading
        def close(*words):
            try:
                eyes.pop().close(*words)
            except OSError:
                pass
        eyes = [sensor.Sensor() for _ in range(3)]
        for work in (close, lambda: close(OSError()), eyes.clear):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        os.abort()
        """,
    )
    words = ("--recorder", "app-{pid}.rec", "--watch", "sensor:Sensor.close", "app.py")
    assert start(folder, "-m", "lifecycle", "run", *words).rc == -signal.SIGABRT
    (path,) = folder.glob("*.rec")
    report = analyse(read(path))
    assert len(report.lives) == 3
    # What only its own `__del__` closed is a mistake, but not on the thread that crashed.
    assert not report.suspects
    assert not report.releasing
