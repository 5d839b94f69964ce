"""Modules over 400 lines and classes with more than 12 public methods have a sentence in docs/design.md that says
why. A sentence that is not needed any more goes."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from tests.support import ROOT

LINES = 400
METHODS = 12
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def modules() -> Iterator[tuple[str, str]]:
    """Path and text of each module. lifecycle/integrations is a link to the folder integrations."""
    for top in ("lifecycle", "integrations", "tools"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("lifecycle/integrations/"):
                yield name, path.read_text(encoding="utf-8")


def lines_of_code(text: str) -> int:
    """The lines of a module without docstrings (of modules, classes, functions and fields), comments and
    blank lines."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def public_methods(node: ast.ClassDef) -> int:
    """The number of a class's public methods, asynchronous ones too. Properties are not counted."""
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    properties = re.compile(r"\b(property|setter|deleter|cached_property)\b")
    return len(
        {
            each.name
            for each in functions
            if not each.name.startswith("_")
            and not any(properties.search(ast.unparse(one)) for one in each.decorator_list)
        }
    )


def rows(heading: str) -> dict[str, tuple[int, str]]:
    """A table of docs/design.md: the name in the first column, with the number and the sentence beside it."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.partition(f"| {heading} |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| `([^`]+)` \| (\d+) \| (.+) \|$", table, re.MULTILINE)
    return {name: (int(number), reason) for name, number, reason in found}


def agree(listed: dict[str, tuple[int, str]], real: dict[str, int], slack: int) -> None:
    """Each name of one stands in the other, with a number that differs by `slack` at most, and a sentence."""
    assert sorted(real) == sorted(listed), "docs/design.md, Size: rows that are missing or not needed"
    wrong = {
        name: (number, real[name]) for name, (number, _) in listed.items() if abs(number - real[name]) > slack
    }
    assert wrong == {}, "docs/design.md, Size: (written, counted)"
    assert [name for name, (_, why) in listed.items() if len(why.split()) < 5 or not why.endswith(".")] == []


def test_each_long_module_has_a_sentence_and_each_sentence_a_long_module() -> None:
    long = {name: lines_of_code(text) for name, text in modules() if len(text.splitlines()) > LINES}
    agree(rows("module"), long, slack=100)


def test_each_wide_class_has_a_sentence_and_each_sentence_a_wide_class() -> None:
    wide: dict[str, int] = {}
    for _, text in modules():
        if len(re.findall(r"^    (?:async )?def [a-z]", text, re.MULTILINE)) <= METHODS:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and public_methods(node) > METHODS:
                wide[node.name] = public_methods(node)
    agree(rows("class"), wide, slack=3)


def test_what_is_counted() -> None:
    text = '"""One.\n\nTwo."""\n\nX = """\na"""  # said\n"""Of X."""\n\n\nclass C:\n    """Three."""\n\n    # why\n'
    text += (
        "    def go(self) -> None: ...\n    @property\n    def at(self) -> int: ...\n    def _in(self): ...\n"
    )
    assert lines_of_code(text) == 2 + 1 + 4
    (node,) = [each for each in ast.parse(text).body if isinstance(each, ast.ClassDef)]
    assert public_methods(node) == 1
