"""Writes the tables of the documentation that are drawn from the code: ``python -m tools.pages``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lifecycle.events import CLASSES, own_fields

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("debug", "info", "warning", "error")


def events_table() -> str:
    """The table of events, from the classes of `lifecycle.events`."""
    rows = ["| event | class | level | logged | fields | says |", "|---|---|---|---|---|---|"]
    for kind, cls in sorted(CLASSES.items(), key=lambda one: ORDER.index(one[1].level)):
        logged = cls.logged if cls.logged == "always" else f"`{cls.logged}`"
        fields = ", ".join(f"`{name}`" for name in own_fields(cls))
        says = " ".join(inspect.cleandoc(cls.__doc__ or "").split()).rstrip(".")
        says = says.replace("``", "`")
        rows.append(f"| `lifecycle.{kind}` | `{cls.__name__}` | {cls.level} | {logged} | {fields} | {says} |")
    return "\n".join(rows)


def main() -> None:
    """Put the tables into their pages."""
    page = ROOT / "docs" / "events.md"
    text = page.read_text(encoding="utf-8")
    table = re.compile(r"^\| event \|.*?(?=\n\n)", re.DOTALL | re.MULTILINE)
    page.write_text(table.sub(lambda _: events_table(), text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
