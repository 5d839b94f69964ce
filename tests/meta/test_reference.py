"""The reference shows every public name, and each has something to say: pages, docstrings, tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import attrs
import pytest

from tests.support import ROOT
from tools.pages import REFERENCE, definition, metrics_table, of_module, reference_pages


def test_the_pages_are_as_the_modules_say() -> None:
    """Written by ``python -m tools.pages``, from the source alone: no framework need be there."""
    pages = reference_pages()
    folder = ROOT / "docs" / "reference"
    assert {path.name for path in folder.iterdir()} == set(pages)
    for name, text in pages.items():
        assert (folder / name).read_text(encoding="utf-8") == text, "write it anew: python -m tools.pages"


@pytest.mark.parametrize("module", REFERENCE)
def test_each_public_name_stands_on_a_page(module: str) -> None:
    text = "\n".join(reference_pages().values())
    missing = [
        name
        for name in of_module(module)
        if not re.search(
            rf"^\.\. auto\w+:: (lifecycle|{re.escape(module)}|lifecycle\.errors)\.{name}$", text, re.MULTILINE
        )
    ]
    assert missing == []


def test_no_public_module_is_left_out() -> None:
    """One with an `__all__` and no underscore, but for parts of a package that shows their names itself."""
    there = set()
    for top in ("lifecycle", "integrations"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if top == "lifecycle" and "integrations" in parts:
                continue
            if "__all__ = [" in path.read_text(encoding="utf-8"):
                name = ".".join(part for part in parts if part != "__init__")
                there.add(name if top == "lifecycle" else f"lifecycle.{name}")
    packages = ("gstreamer", "gpu.opengl", "gpu.wgpu", "cuda", "dlpack", "iceoryx2", "zenoh")
    inner = re.compile(
        rf"lifecycle\.(_core|manager|guards|pools|proxies|testing)\b.*|lifecycle\.integrations\.(across|({'|'.join(packages)})\.).*"
    )
    left_out = {name for name in there - set(REFERENCE) if not inner.fullmatch(name)}
    assert left_out == set()


def public_classes() -> list[tuple[str, ast.ClassDef]]:
    found = {
        (home, node.name): node
        for module in REFERENCE
        for name in of_module(module)
        for home, node in [definition(module, name)]
        if isinstance(node, ast.ClassDef)
    }
    return [(home, node) for (home, _), node in sorted(found.items())]


def bare_parts(cls: ast.ClassDef) -> list[str]:
    """The public methods and attrs fields of a class that say nothing of themselves."""
    has_fields = any("attrs." in ast.unparse(line) for line in cls.decorator_list)
    bare = [] if ast.get_docstring(cls) else [cls.name]
    for part, then in zip(cls.body, [*cls.body[1:], None], strict=True):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words = [ast.unparse(line) for line in part.decorator_list]
            further = any(word.endswith((".setter", "overload", ".default", ".validator")) for word in words)
            if not part.name.startswith("_") and not further and not ast.get_docstring(part):
                bare.append(f"{cls.name}.{part.name}")
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and has_fields:
            said = isinstance(then, ast.Expr) and isinstance(then.value, ast.Constant)
            name = part.target.id
            if not name.startswith("_") and "ClassVar" not in ast.unparse(part.annotation) and not said:
                bare.append(f"{cls.name}.{name}")
    return bare


def test_each_public_field_and_method_says_what_it_is() -> None:
    classes = public_classes()
    assert len(classes) > 150
    assert [bare for home, cls in classes for bare in bare_parts(cls) if home != "typing"] == []


def test_a_part_that_says_nothing_is_found() -> None:
    source = "@attrs.frozen\nclass A:\n  'x'\n  a: int\n  'said'\n  b: int\n  def c(self): ...\n  def _d(self): ..."
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    assert bare_parts(cls) == ["A.b", "A.c"]


ERRORS = [
    ("errors.md", "lifecycle.errors"),
    ("errors.md", "lifecycle.recorder.errors"),
    ("errors.md", "lifecycle.integrations.gstreamer.errors"),
    ("errors.md", "lifecycle.integrations.gpu.errors"),
    ("errors.md", "lifecycle.integrations.cuda.errors"),
    ("errors.md", "lifecycle.integrations.dlpack.errors"),
]


@pytest.mark.parametrize(("page", "module"), ERRORS)
def test_each_error_has_its_meaning_and_its_remedy(page: str, module: str) -> None:
    top, _, rest = module.partition(".")
    path = ROOT / (rest if rest.startswith("integrations") else f"{top}.{rest}").replace(".", "/")
    source = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))
    names = {node.name for node in source.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"}
    rows = dict(
        re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
    )
    assert names <= set(rows), names - set(rows)
    assert all(rows[name].strip() for name in names)


def test_each_state_and_cause_is_explained() -> None:
    from lifecycle import Cause, ObjectState

    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted([*(state.name for state in ObjectState), *(cause.value for cause in Cause)])


@pytest.mark.needs("prometheus_client")
def test_the_page_lists_every_metric() -> None:
    assert metrics_table() in (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"), (
        "write it anew: python -m tools.pages"
    )


def test_every_setting_and_environment_variable_is_listed() -> None:
    from lifecycle import SafetyConfig

    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for field in attrs.fields(SafetyConfig):
        assert re.search(rf"^\| .*`{field.name}`", page, re.MULTILINE), field.name
    read = {
        variable
        for top in ("lifecycle", "integrations")
        for path in Path(ROOT / top).rglob("*.py")
        for variable in re.findall(r"\bLIFECYCLE_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    assert read
    assert [variable for variable in sorted(read) if f"`{variable}" not in page] == []
