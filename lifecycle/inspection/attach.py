"""Asking a process that serves no socket, with `sys.remote_exec` of Python 3.14: the last resort.

It runs code in somebody's process, so it is done for ``--attach`` alone. The code reads what the socket would
answer, catches everything (an exception would be printed on the program's standard error), and writes JSON
into a folder that nobody else may enter. It runs on the main thread at its next bytecode: a process that
hangs in C, or waits in ``join()`` or ``sleep()``, answers when that ends, perhaps never; its recorder's file
is better then.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from lifecycle.inspection.protocol import LONGEST_ANSWER, InspectionError

WITHIN = 10.0
"""Seconds for which an answer is waited for."""
EVERY = 0.02

SCRIPT = """\
def _lifecycle_inspect():
    import json, os, sys
    folder = {folder!r}
    try:
        if "lifecycle" in sys.modules:
            from lifecycle.inspection.questions import answer
            told = {{"pid": os.getpid(), **answer(json.loads({request!r}))}}
        else:
            told = {{"error": "the process has not imported lifecycle: there is nothing to ask"}}
    except BaseException as error:
        told = {{"error": f"{{error}}" or type(error).__name__}}
    try:
        with open(os.path.join(folder, "written"), "x", encoding="utf-8") as file:
            file.write(json.dumps(told, default=str))
        os.rename(os.path.join(folder, "written"), os.path.join(folder, "answer"))
    except BaseException:
        pass
_lifecycle_inspect()
del _lifecycle_inspect
"""


def attach(pid: int, question: str, **more: Any) -> dict[str, Any]:
    """Have process `pid` answer, by code that runs in it. Raises `InspectionError` with why it does not."""
    run: Callable[[int, str], None] | None = getattr(sys, "remote_exec", None)
    if run is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise InspectionError(
            f"--attach needs Python 3.14 on both ends, and this is {version}: start the process with "
            "LIFECYCLE_INSPECT, or look at its recorder's file"
        )
    owner = _owner_of(pid)
    folder = tempfile.mkdtemp(prefix="lifecycle-")
    script = os.path.join(folder, "ask.py")
    gone = True
    try:
        with open(script, "x", encoding="utf-8") as file:
            file.write(SCRIPT.format(folder=folder, request=json.dumps({"question": question, **more})))
        try:
            if owner != os.geteuid():
                os.chown(script, owner, -1)
                os.chown(folder, owner, -1)
            run(pid, script)
        except PermissionError:
            raise InspectionError(
                f"process {pid} may not be attached to: it is another user's, or the system forbids it "
                "(kernel.yama.ptrace_scope)"
            ) from None
        except (OSError, RuntimeError) as error:
            raise InspectionError(
                f"process {pid} cannot be attached to: {error}; it runs another Python than this one, or was "
                "started with -X disable-remote-debug"
            ) from None
        told = _wait(folder, pid)
        gone = told is not None
    finally:
        if gone:
            shutil.rmtree(folder, ignore_errors=True)
    if told is None:
        # A script that is gone would be an error on the program's standard error.
        raise InspectionError(
            f"process {pid} has not answered within {WITHIN:.0f} s: its main thread waits or is in C code. "
            f"It may still run {script}, which only reads; the recorder's file can be read all the same"
        )
    if "error" in told:
        raise InspectionError(str(told["error"]))
    return told


def _owner_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            raise InspectionError(f"there is no process {pid}") from None
        return os.geteuid()


def _wait(folder: str, pid: int) -> dict[str, Any] | None:
    until = time.monotonic() + WITHIN
    path = os.path.join(folder, "answer")
    while time.monotonic() < until:
        try:
            with open(path, encoding="utf-8") as file:
                told = json.loads(file.read(LONGEST_ANSWER))
        except FileNotFoundError:
            _owner_of(pid)
            time.sleep(EVERY)
            continue
        except ValueError:
            raise InspectionError(f"process {pid} has answered with what is no answer") from None
        return told if isinstance(told, dict) else {"error": "no answer"}
    return None
