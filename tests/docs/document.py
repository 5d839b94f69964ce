"""Runs every Python example of one document, in its order and in one namespace: ``python -m
tests.docs.document PATH``.

A document is a Markdown file or a module with docstrings. Its examples are the ``python`` code blocks and the
doctests. A ``text`` block that follows a Python block at once is what that block prints, compared as doctest
compares with ELLIPSIS and NORMALIZE_WHITESPACE. ``<!-- skip: next -->`` before a block leaves it out (a
fragment, or one that needs hardware). ``<!-- program -->`` before a block runs it as a program of its own,
with nothing of the blocks before: its output is what a terminal would show, with the name of the signal that
ended it, as a shell prints it. Without a ``text`` block behind it a program must end with 0.

``<!-- file: NAME -->`` before a Python block writes it into that file and runs nothing. ``<!-- run -->``
before a ``console`` block runs its commands, the lines that begin with ``$``, one after the other: what is
under each of them is what a terminal would show of it.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sybil import Document, Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.example import SybilFailure
from sybil.parsers import markdown, rest
from sybil.typing import Parser

DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROGRAM = "<!-- program -->"
FILE = re.compile(r"<!-- file: (\S+) -->\s*\Z")
COMMANDS = "<!-- run -->"
SHELL = """
python() { exec "$PYTHON" "$@"; }
lifecycle() { exec "$PYTHON" -m lifecycle "$@"; }
"""
OUTPUT_FOLLOWS = re.compile(r"[\s`]*```text\n")


def ran(command: list[str], **more: Any) -> tuple[int, str]:
    """The exit status of a command, and what a terminal would show of it."""
    # Whoever tries the program at home has no fault handler on.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    done = subprocess.run(
        command,
        env={**environment, **more.pop("env", {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        **more,
    )
    killed = f"{signal.strsignal(-done.returncode)}\n" if done.returncode < 0 else ""
    return done.returncode, done.stdout + killed


def output_of(program: str) -> tuple[int, str]:
    """As `ran`, of a program in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8")
        return ran([sys.executable, str(path)], cwd=folder)


def shown_by(command: str) -> str:
    """What a terminal would show of a command. A shell reads it, and ``python`` is this interpreter."""
    # A terminal is written to line by line, so a crash takes nothing with it.
    environment = {"PYTHON": sys.executable, "PYTHONUNBUFFERED": "1"}
    return ran(["bash", "-c", SHELL + command], env=environment)[1]


class _Runner:
    """Evaluates the blocks, and remembers what the last one printed and where it ended."""

    def __init__(self) -> None:
        self.python = PythonEvaluator()
        self.printed = ""
        self.ended = -1

    def run(self, example: Example) -> str | None:
        before = example.document.text[: example.start].rstrip()
        if before.endswith(PROGRAM):
            return self.run_program(example)
        if file := FILE.search(before):
            Path(file[1]).write_text(str(example.parsed), encoding="utf-8")
            self.ended = -1
            return None
        with contextlib.redirect_stdout(io.StringIO()) as captured:
            self.python(example)
        self.printed, self.ended = captured.getvalue(), example.end
        return None

    def run_program(self, example: Example) -> str | None:
        status, self.printed = output_of(str(example.parsed))
        self.ended = example.end
        if status and not OUTPUT_FOLLOWS.match(example.document.text, example.end):
            return f"The program ended with {status}:\n{self.printed}"
        return None

    def run_commands(self, example: Example) -> str | None:
        if not example.document.text[: example.start].rstrip().endswith(COMMANDS):
            return None
        first, *commands = re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)
        if first or not commands:
            return f"A command begins with $:\n{example.parsed}"
        for command, _, expected in (one.partition("\n") for one in commands):
            shown = shown_by(command)
            if not doctest.OutputChecker().check_output(expected, shown, DOCTEST):
                return f"Expected of {command}:\n{expected}\nGot:\n{shown}"
        return None

    def compare(self, example: Example) -> str | None:
        if self.ended < 0 or example.document.text[self.ended : example.start].strip(" \n`"):
            return None  # a block of text that stands for itself
        if doctest.OutputChecker().check_output(example.parsed, self.printed, DOCTEST):
            return None
        return f"Expected:\n{example.parsed}\nGot:\n{self.printed}"


def parse(path: Path) -> Document:
    """The document at `path`, its examples ready to be evaluated."""
    runner = _Runner()
    parsers: list[Parser] = [
        markdown.CodeBlockParser("python", runner.run),
        markdown.CodeBlockParser("text", runner.compare),
        markdown.CodeBlockParser("console", runner.run_commands),
        rest.DocTestParser(DOCTEST),
        markdown.SkipParser(),
    ]
    return Sybil(parsers, pattern="*", document_types={".py": PythonDocStringDocument}).parse(path)


def main(path: str) -> int:
    """Run the document; prints what failed, and returns the exit status."""
    # A program that dies on purpose leaves no file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    count = 0
    for example in parse(Path(path)).examples():
        try:
            example.evaluate()
        except SybilFailure as failure:
            print(failure)
            return 1
        count += 1
    print(f"{count} examples ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
