"""What the README says beside its code: its commands are there, its figures are those that were measured, and
what it promises has tests."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (.*)$", README, re.MULTILINE)


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def section(title: str) -> str:
    text: str
    (text,) = re.findall(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return text


def test_the_order_of_a_reader_in_trouble() -> None:
    assert SECTIONS == [
        "The crash",
        "Install",
        "You have … → use …",
        "What it costs",
        "Why not …",
        "What is guaranteed",
        "What it does not do, and when not to use it",
        "Links",
    ]
    first_screen = README[: README.index("## Install")]
    assert first_screen.count("<!-- program -->") == 2
    assert "Segmentation fault" in first_screen
    assert len(first_screen.splitlines()) < 65


def test_its_make_targets_are_run_before_a_change_lands() -> None:
    made = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert made == ["demo", "test"]
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in made:
        assert re.search(rf"\bmake {target}$", gate, re.MULTILINE)


def test_every_other_command_installs_something_that_there_is() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL
    )
    there = set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))
    (named,) = re.findall(r"Extras for the adapters: (.*?);", README, re.DOTALL)
    assert set(re.findall(r"`\[(\w+)\]`", named)) <= there
    packages = (ROOT / "tools" / "system-packages.sh").read_text(encoding="utf-8")
    for command in commands():
        words = command.split()
        if words[:2] == ["apt-get", "install"]:
            for package in words[2:]:
                known = package.startswith("-") or package in ("make", "git", "ca-certificates")
                assert known or re.search(rf"\b{re.escape(package)}\b", packages), package
        elif "pip" in words[0]:
            asked = [word.strip("'") for word in words[2:] if not word.startswith("-")]
            for name in asked:
                distribution, _, extra = name.partition("[")
                assert distribution in ("native-lifecycle", "lifecycle"), name
                assert not extra or extra.rstrip("]") in there
        else:
            assert re.match(r"make |apt-get update|/usr/bin/python3 -m venv ", command), command


def test_what_it_costs_is_what_was_measured() -> None:
    rows = re.findall(r"^\|.*\|$", section("What it costs"), re.MULTILINE)[2:]
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert len(rows) >= 5
    assert [row for row in rows if row not in measured] == []


@pytest.mark.parametrize("number", range(1, 10))
def test_each_guarantee_has_tests(number: int) -> None:
    """The README's table has each invariant, and the tests that the design page names for it are there."""
    assert re.search(rf"^\| I{number} \| .+ \|$", section("What is guaranteed"), re.MULTILINE)
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (held,) = re.findall(rf"^\| I{number} \| .*? \| (.*) \|$", design, re.MULTILINE)
    names = [name for name in re.findall(r"`([\w/*]+)`", held) if name != "benchmarks"]
    assert names
    for name in names:
        assert list((ROOT / "tests").glob(f"**/{name}.py")), name
