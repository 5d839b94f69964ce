"""Runs every Python example of one document, in its order and in one namespace: ``python -m
tests.docs.document PATH``.

A document is a Markdown file or a module with docstrings. Its examples are the ``python`` code blocks and the
doctests. A ``text`` block that follows a Python block at once is what that block prints, compared as doctest
compares with ELLIPSIS and NORMALIZE_WHITESPACE. ``<!-- skip: next -->`` before a block leaves it out (a
fragment, or one that needs hardware).
"""

from __future__ import annotations

import contextlib
import doctest
import io
import sys
from pathlib import Path

from sybil import Document, Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.example import SybilFailure
from sybil.parsers import markdown, rest
from sybil.typing import Parser

DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class _Runner:
    """Evaluates the blocks, and remembers what the last one printed and where it ended."""

    def __init__(self) -> None:
        self.python = PythonEvaluator()
        self.printed = ""
        self.ended = -1

    def run(self, example: Example) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as captured:
            self.python(example)
        self.printed, self.ended = captured.getvalue(), example.end

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
        rest.DocTestParser(DOCTEST),
        markdown.SkipParser(),
    ]
    return Sybil(parsers, pattern="*", document_types={".py": PythonDocStringDocument}).parse(path)


def main(path: str) -> int:
    """Run the document; prints what failed, and returns the exit status."""
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
