"""``lifecycle run``: an unmodified program under watch.

The program is started, not executed by this process: the same interpreter becomes it (`os.execve`), with a
`sitecustomize` of ours first on ``PYTHONPATH`` (`lifecycle.watch.beginning`). So its ``__main__``,
``sys.argv``, signals, exit status and process id are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import Any

from lifecycle.config import LEAK_LEVELS
from lifecycle.errors import LifecycleError
from lifecycle.watch.targets import parse

WITH_VALUE = ("--recorder", "--leaks", "--watch", "--to")
SITE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "watch", "site")


class RunError(LifecycleError):
    """A program that cannot be started."""


def add_parser(commands: Any) -> None:
    """Add the command to those of `lifecycle`."""
    one = commands.add_parser(
        "run",
        help="run a program, unmodified, under watch",
        usage="lifecycle run [-h] [--recorder PATH] [--leaks LEVEL] [--watch MODULE:CLASS.CLOSE]... "
        "[--gst [--make-safe]] [--gl] [--wgpu] [--to FILE] [-v] "
        "(SCRIPT | -m MODULE | -c CODE | -) [ARGUMENT ...]",
        # `divided` does not know abbreviations.
        allow_abbrev=False,
        description="Run a Python program as it is. Its output, exceptions and exit status are its own; what "
        "is found is written to standard error, and nothing where nothing is found. Child processes of "
        "Python are watched as well.",
    )
    one.add_argument("--recorder", metavar="PATH", help="record into this file: camera-{pid}.rec")
    one.add_argument(
        "--leaks", choices=LEAK_LEVELS, help="the leak level of managers that the program makes itself"
    )
    one.add_argument(
        "--watch",
        action="append",
        default=[],
        metavar="MODULE:CLASS.CLOSE",
        help="tell of objects that are used after their close, and of those that are never closed",
    )
    one.add_argument(
        "--gst",
        action="store_true",
        help="tell of what is done wrong with GStreamer: mappings, states, pads, samples and callbacks",
    )
    one.add_argument(
        "--make-safe",
        action="store_true",
        help="with --gst: unmap when the last view has gone, and set what plays to NULL at the end",
    )
    one.add_argument(
        "--gl", action="store_true", help="tell of what is done wrong with PyOpenGL and moderngl"
    )
    one.add_argument("--wgpu", action="store_true", help="tell of what is done wrong with wgpu")
    one.add_argument("--to", default="", metavar="FILE", help="append what is found to this file")
    one.add_argument(
        "-v", "--verbose", action="store_true", help="what may be harmless as well, and a summary"
    )


def divided(words: list[str]) -> tuple[list[str], list[str] | None]:
    """The words of this command, and those of the program; None for these where the command is another."""
    if words[:1] != ["run"]:
        return words, None
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "-c", "-m", "--"):
        at += 2 if words[at] in WITH_VALUE else 1
    program = words[at:]
    return words[:at], program[1:] if program[:1] == ["--"] else program


def run(arguments: argparse.Namespace, program: list[str]) -> int:
    """Become the program. Raises `LifecycleError` where that cannot be."""
    check(program)
    for target in arguments.watch:
        parse(target)
    if arguments.make_safe and not arguments.gst:
        raise RunError("--make-safe is of --gst: give that as well")
    environment = dict(os.environ)
    if arguments.recorder is not None:
        environment["LIFECYCLE_RECORDER"] = _recorder(arguments.recorder)
    if arguments.leaks is not None:
        environment["LIFECYCLE_LEAK_LEVEL"] = arguments.leaks
    to = os.path.abspath(arguments.to) if arguments.to else ""
    if to:
        try:
            os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except (OSError, ValueError) as error:
            raise RunError(f"nothing can be written to {to}: {_why(error)}") from None
    order = {
        "watch": arguments.watch,
        "gst": arguments.gst,
        "make_safe": arguments.make_safe,
        "gl": arguments.gl,
        "wgpu": arguments.wgpu,
        "verbose": arguments.verbose,
        "to": to,
        "pid": os.getpid(),
    }
    environment["LIFECYCLE_RUN"] = json.dumps(order)
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = SITE + (os.pathsep + before if before else "")
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed before the start.
        if stream is not None:
            stream.flush()
    command = [sys.executable, *program]
    if os.name == "nt":  # pragma: no cover - there exec ends this process, and the shell waits for no other
        import subprocess

        return subprocess.call(command, env=environment)
    try:
        os.execve(sys.executable, command, environment)
    except (OSError, ValueError) as error:
        raise RunError(f"{sys.executable} cannot be started: {_why(error)}") from None


def check(program: list[str]) -> None:
    """Raise `RunError` where it is plain that there is no program."""
    if not program:
        raise RunError("run what? Name a script, as in lifecycle run --watch h5py:File.close script.py")
    script = program[0]
    if script == "-":
        return
    if script in ("-m", "-c"):
        if len(program) < 2:
            what = "-m names a module, as in lifecycle run -m http.server"
            raise RunError(what if script == "-m" else "-c takes the program's code")
        return
    try:
        if os.path.isdir(script):
            if not os.path.exists(os.path.join(script, "__main__.py")):
                raise RunError(f"{script} is a folder without a __main__.py")
            return
        if stat.S_ISFIFO(os.stat(script).st_mode):
            # Opened and closed here, it would have no reader for what is written into it.
            return
        with open(script, "rb"):
            return
    except (OSError, ValueError) as error:
        raise RunError(f"the script {script} cannot be read: {_why(error)}") from None


def _recorder(pattern: str) -> str:
    if not pattern:
        raise RunError("--recorder names no file: give a path, as in --recorder app-{pid}.rec")
    path = os.path.abspath(pattern)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise RunError(f"no recorder at {pattern!r}: there is no folder {folder} that may be written to")
    return path


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
