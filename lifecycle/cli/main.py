"""The commands, their arguments and exit statuses. What goes wrong is one line on standard error and status
2, never a traceback."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from lifecycle.cli import running
from lifecycle.errors import LifecycleError
from lifecycle.inspection.attach import attach
from lifecycle.inspection.client import ask, socket_of
from lifecycle.inspection.protocol import InspectionError
from lifecycle.recorder.errors import RecordingError
from lifecycle.recorder.page import page_of
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import plain, read
from lifecycle.recorder.summary import look

CLEAN, CRASHED, UNREADABLE = 0, 1, 2
"""Exit statuses: the process ended well or runs still; it has no clean end; there is nothing to read."""


class Command(argparse.ArgumentParser):
    """The parser of one command: options may also stand between arguments that may be left out."""

    _within: bool = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `ArgumentParser.parse_known_args`, by way of `parse_known_intermixed_args`, which calls this."""
        if self._within:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    import lifecycle

    found = argparse.ArgumentParser(
        prog="lifecycle", description="What a process did with its native objects, also after its crash."
    )
    found.add_argument("--version", action="version", version=f"native-lifecycle {lifecycle.__version__}")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Command)
    one = commands.add_parser(
        "postmortem",
        help="say which objects a crash points at",
        description="Read the file of a flight recorder and say which objects the end of its process points "
        "at. Exit status: 0 ended well or still running, 1 no clean end, 2 not readable.",
    )
    one.add_argument("file", help="the file that LIFECYCLE_RECORDER named")
    one.add_argument("--json", action="store_true", help="as JSON (docs/postmortem.md describes it)")
    one.set_defaults(run=postmortem)
    one = commands.add_parser(
        "inspect",
        help="show what a running process has, from its recorder's file",
        description="Show what is live in a process, by type, from the file of its flight recorder. The "
        "process is not asked, so this works for one that hangs. Exit status: 0, 1 when the process has no "
        "clean end, 2 when there is nothing to read.",
    )
    one.add_argument("target", metavar="PID", help="a process of yours, or the path of a recorder's file")
    one.add_argument(
        "question",
        nargs="?",
        choices=("managers", "old", "holders", "topics"),
        help="ask the process itself, through its socket (LIFECYCLE_INSPECT)",
    )
    one.add_argument("id", nargs="?", type=int, help="of the object whose holders are asked for")
    one.add_argument(
        "--yes", action="store_true", help="the process may stop while its heap is looked through"
    )
    one.add_argument(
        "--attach",
        action="store_true",
        help="ask by code that runs in the process (Python 3.14): for one that serves no socket",
    )
    one.add_argument("--once", action="store_true", help="print once, and do not go on until Ctrl-C")
    one.add_argument("--json", action="store_true", help="as JSON, one document a look")
    one.add_argument("--every", type=_pause, default=1.0, metavar="SECONDS", help="how often; 1 unless given")
    one.set_defaults(run=inspect)
    running.add_parser(commands)
    one = commands.add_parser(
        "report",
        help="make one HTML page of a recording",
        description="Make one HTML page of a recorder's file, which loads nothing: suspects, the last second "
        "by thread, objects and bytes by type, what was never closed, release times. Exit status as of "
        "postmortem.",
    )
    one.add_argument("file", help="the file that LIFECYCLE_RECORDER named")
    one.add_argument("-o", "--output", metavar="PATH", help="FILE.html unless given; - is standard output")
    one.add_argument("--force", action="store_true", help="write over a file that is there")
    one.add_argument("--no-source", action="store_true", help="without lines of the program")
    one.set_defaults(run=report)
    return found


def _pause(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 3600:
        raise ValueError
    return value


_pause.__name__ = "number of seconds from 0.05 to 3600"


def inspect(arguments: argparse.Namespace) -> int:
    """``lifecycle inspect PID``, and with a question to the process itself."""
    if arguments.question is not None:
        return question(arguments)
    if arguments.attach:
        raise InspectionError("--attach asks a question: managers, old, topics, or holders ID")
    while True:
        summary = look(arguments.target)
        if arguments.json:
            say(json.dumps(summary.as_dict(), allow_nan=False))
        else:
            again = not arguments.once and sys.stdout is not None and sys.stdout.isatty()
            say(("\x1b[H\x1b[2J" if again else "") + str(summary))
        recording = summary.report.recording
        if not recording.live:
            return CLEAN if recording.clean else CRASHED
        if arguments.once:
            return CLEAN
        time.sleep(arguments.every)


def question(arguments: argparse.Namespace) -> int:
    """``lifecycle inspect PID QUESTION``."""
    target = arguments.target
    pid = int(target) if target.isascii() and target.isdigit() else 0
    if arguments.attach and not pid:
        raise InspectionError(f"--attach takes a process by its id, not {target}")
    if arguments.id is not None and arguments.question != "holders":
        raise InspectionError(f"{arguments.question} takes no id: holders {arguments.id} asks of one object")
    more = {"id": arguments.id, "yes": arguments.yes} if arguments.question == "holders" else {}
    if arguments.attach:
        told = attach(pid, arguments.question, **more)
    else:
        told = ask(socket_of(pid) if pid else target, arguments.question, **more)
    if arguments.json:
        say(json.dumps(told))
        return CLEAN
    for manager in told.get("managers", ()):
        state = "well" if manager["healthy"] else "; ".join(manager["problems"])
        say(plain(f"{manager['manager']}: {manager['live']} live of {manager['registered']}, {state}"))
        for queue, waiting in manager["backlog"].items():
            say(plain(f"  queue {queue}: {waiting} waiting"))
    for group in told.get("groups", ()):
        site = group["site"] or "a line that was not noted (LIFECYCLE_LEAK_LEVEL=detailed notes each)"
        say(
            plain(
                f"{group['live']:>8,} {group['type']}, {group['bytes']:,} bytes, the oldest (object "
                f"{group['first']}) for {group['oldest']:.1f} s, registered at {site}"
            )
        )
    for topic in told.get("topics", ()):
        figures = ", ".join(
            f"{name} {value}"
            for name, value in topic.items()
            if name not in ("manager", "topic", "transport", "end", "peers")
        )
        end = f"{topic['transport']} {topic['end']} of {topic['manager']}"
        say(plain(f"{topic['topic']}: {end}: {figures}"))
        for peer in topic["peers"]:
            say(plain(f"  process {peer['pid']} {peer['executable']}: {peer['state']}"))
    if told.get("topics") == []:
        say("no topic is open")
    for holder in told.get("holders", ()):
        say(plain(holder))
    if told.get("holders") == []:
        say("nothing holds it")
    if told.get("more"):
        say(f"and {told['more']} more")
    return CLEAN


def postmortem(arguments: argparse.Namespace) -> int:
    """``lifecycle postmortem FILE``."""
    report = analyse(read(arguments.file))
    say(json.dumps(report.as_dict(), indent=2, allow_nan=False) if arguments.json else str(report))
    return CRASHED if report.crashed else CLEAN


def report(arguments: argparse.Namespace) -> int:
    """``lifecycle report FILE``."""
    found = analyse(read(arguments.file))
    text = page_of(found, sources=not arguments.no_source)
    if arguments.output == "-":
        say(text)
    else:
        path = arguments.output or f"{arguments.file}.html"
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if arguments.force else os.O_EXCL)
        try:
            descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except FileExistsError:
            raise RecordingError(f"{path} is there already: name another with -o, or add --force") from None
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            # Half a page would be in the way of the next try.
            os.unlink(path)
            raise RecordingError(f"{path} cannot be written: {error.strerror or error}") from None
        say(plain(path))
    return CRASHED if found.crashed else CLEAN


def say(text: str) -> None:
    """Print `text`, whatever the terminal's encoding; nothing where standard output was closed."""
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def refused(text: str) -> int:
    """Say on standard error why there is nothing to read; the exit status for that."""
    if sys.stderr is not None:
        sys.stderr.write(f"lifecycle: {plain(text, 2000)}\n")
    return UNREADABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    words, program = running.divided(words)
    try:
        arguments = _parsed(words)
        if program is not None:
            return running.run(arguments, program)
        status: int = arguments.run(arguments)
        return status
    except LifecycleError as error:
        return refused(str(error))
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. CPython would complain when it flushes at the end.
        _give_up_output()
        return CLEAN
    except OSError as error:
        _give_up_output()
        return refused(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130


def _parsed(words: list[str]) -> argparse.Namespace:
    try:
        return parser().parse_args(words)
    except SystemExit:
        # It has printed its help, and what the stream still keeps fails here, and not when all has ended.
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _give_up_output() -> None:
    """Have what standard output still keeps go nowhere, where it cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
