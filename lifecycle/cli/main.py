"""The commands, their arguments and exit statuses. What goes wrong is one line on standard error and status
2, never a traceback."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from lifecycle.errors import LifecycleError
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import plain, read

CLEAN, CRASHED, UNREADABLE = 0, 1, 2
"""Exit statuses: the process ended well or runs still; it has no clean end; there is nothing to read."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    import lifecycle

    found = argparse.ArgumentParser(
        prog="lifecycle", description="What a process did with its native objects, also after its crash."
    )
    found.add_argument("--version", action="version", version=f"native-lifecycle {lifecycle.__version__}")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser(
        "postmortem",
        help="say which objects a crash points at",
        description="Read the file of a flight recorder and say which objects the end of its process points "
        "at. Exit status: 0 ended well or still running, 1 no clean end, 2 not readable.",
    )
    one.add_argument("file", help="the file that LIFECYCLE_RECORDER named")
    one.add_argument("--json", action="store_true", help="as JSON (docs/postmortem.md describes it)")
    one.set_defaults(run=postmortem)
    return found


def postmortem(arguments: argparse.Namespace) -> int:
    """``lifecycle postmortem FILE``."""
    report = analyse(read(arguments.file))
    say(json.dumps(report.as_dict(), indent=2, allow_nan=False) if arguments.json else str(report))
    return CRASHED if report.crashed else CLEAN


def say(text: str) -> None:
    """Print `text`, whatever the terminal's encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    # This process reads recordings. What it would write itself is of no interest.
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except LifecycleError as error:
        sys.stderr.write(f"lifecycle: {plain(str(error), 2000)}\n")
        return UNREADABLE
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. CPython would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLEAN
    except OSError as error:
        sys.stderr.write(f"lifecycle: {plain(str(error), 2000)}\n")
        return UNREADABLE
    except KeyboardInterrupt:
        return 130
