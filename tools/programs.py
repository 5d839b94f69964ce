"""The programs that pages of the documentation show, each of which stands once, in `examples/recipes`. A page
names one between two comments::

    <!-- program: sqlite3_raw.py | ends: SIGSEGV -->
    <!-- end of program -->

`tools.pages` writes what stands between them. `tests/recipes` runs each program and holds it to its ``ends``,
and to the ``text`` block that may follow. A program ends ``well``, ``wrong`` (with 0, and with wrong data),
with the name of a signal or with ``exit status 1`` (or one of several, with `or` between them), or it
``hangs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "examples" / "recipes"
PROGRAM = re.compile(
    r"<!-- program: (?P<name>\S+) \| ends: (?P<ends>.*?) -->\n"
    r"(?P<shown>.*?)<!-- end of program -->\n(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
SAYS = {
    "well": "It ends well",
    "wrong": "It ends as if nothing had happened, with **wrong data**",
    "hangs": "It **hangs** (and is ended by `faulthandler`)",
}


class Program(NamedTuple):
    """A program that a page shows."""

    page: Path
    name: str
    """The file's name in `PROGRAMS`."""
    ends: str
    output: str | None
    """What it prints, with ``...`` for what varies; None where the page does not say it."""


def pages_with_programs() -> list[Path]:
    """Each page of the documentation that shows a program."""
    return [
        page
        for page in sorted((ROOT / "docs").glob("**/*.md"))
        if PROGRAM.search(page.read_text(encoding="utf-8"))
    ]


def programs() -> Iterator[Program]:
    """Each program that a page shows, page by page."""
    for page in pages_with_programs():
        for found in PROGRAM.finditer(page.read_text(encoding="utf-8")):
            yield Program(page, found["name"], found["ends"], found["output"])


def with_programs(page: Path) -> str:
    """The text of a page, with its programs as they are now."""

    def shown(found: re.Match[str]) -> str:
        name, ends = found["name"], found["ends"]
        source = (PROGRAMS / name).read_text(encoding="utf-8").rstrip("\n")
        says = SAYS.get(ends) or "It ends with **" + ends.replace(" or ", "** or **") + "**"
        colon = ":" if found["output"] is not None else "."
        written = f"`examples/recipes/{name}`:\n\n```python\n{source}\n```\n\n{says}{colon}\n\n"
        start, end = found.start("shown") - found.start(), found.end("shown") - found.start()
        return found[0][:start] + "\n" + written + found[0][end:]

    return PROGRAM.sub(shown, page.read_text(encoding="utf-8"))
