"""Mutants: bugs planted in the core one at a time, each of which the suite must find.

Usage: ``make mutants``, or ``python -m tools.mutants [NAME ...] [--write]``. Each bug is a textual patch of a
copy of the tree; the tests named with it are run there, and some must fail. ``--write`` puts what became of
them into the table of docs/mutants.md.

A patch that no longer applies exactly once is an error, and so is a mutant on which the tests cannot even be
collected: whoever changes the code concerned changes the patch. Ends with 0 when every mutant was found, 1
when one survived, 2 for such an error.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

from tools.planted import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutants.md"
PATIENCE = 300.0
"""Seconds for the tests of one mutant; what hangs is found too."""
BEGIN, END = "<!-- table: written by make mutants -->", "<!-- end of table -->"


class Broken(Exception):
    """A mutant that cannot be tried."""


@attrs.frozen
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    found_by: str
    """The first test that failed; empty where the mutant survived."""
    how: str
    seconds: float


def patched(mutant: Mutant, tree: Path) -> dict[Path, str]:
    """The files that the patch changes, as they are with it. Raises `Broken` unless every part of it applies
    exactly once."""
    files: dict[Path, str] = {}
    for name, old, new in mutant.edits:
        path = tree / "lifecycle" / name
        text = files.get(path) or path.read_text()
        times = text.count(old)
        if times != 1:
            raise Broken(
                f"{mutant.name}: lifecycle/{name} contains the text to be changed {times} times, not "
                f"once:\n{old}"
            )
        files[path] = text.replace(old, new)
    return files


def plant(mutant: Mutant, tree: Path) -> None:
    """Apply the patch in `tree`."""
    for path, text in patched(mutant, tree).items():
        path.write_text(text)


def copy_of_the_tree(into: Path) -> Path:
    """What the tests need, in `into`."""
    for part in (
        "lifecycle",
        "integrations",
        "tests",
        "benchmarks",
        "examples",
        "pyproject.toml",
        "docs",
        "tools",
    ):
        source = ROOT / part
        if source.is_dir():
            # With the link to the integrations: a patch of a second copy would be read by nobody.
            shutil.copytree(source, into / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, into / part)
    return into


def run_tests(tree: Path, tests: Iterable[str], patience: float) -> tuple[int, str]:
    """Exit status and output of the tests there; -9 when they took too long."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=line",
        "--no-header",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return -9, str(late.stdout or "")
    return done.returncode, done.stdout


def judge(mutant: Mutant, patience: float = PATIENCE) -> Verdict:
    """Plant one mutant and run its tests."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copy_of_the_tree(Path(folder))
        plant(mutant, tree)
        status, output = run_tests(tree, mutant.tests, patience)
    seconds = time.monotonic() - began
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if status == 0:
        return Verdict(mutant, "", "survived", seconds)
    if status == -9:
        return Verdict(mutant, mutant.tests[0], "hangs", seconds)
    if status < 0 or status > 128:
        return Verdict(mutant, mutant.tests[0], f"killed by signal {abs(status) % 128}", seconds)
    if status != 1 or not failed:
        raise Broken(f"{mutant.name}: the tests did not run:\n{output[-2000:]}")
    return Verdict(mutant, failed[0], "fails", seconds)


def row(verdict: Verdict) -> str:
    """Its line in docs/mutants.md."""
    mutant = verdict.mutant
    test = verdict.found_by.rpartition("/")[2].replace("|", r"\|")
    found = f"`{test}`" + ("" if verdict.how == "fails" else f" ({verdict.how})") if test else "**survived**"
    return f"| {mutant.name} | {mutant.wrong} | {mutant.invariant} | {found} |"


def write(verdicts: Iterable[Verdict]) -> None:
    """Put the rows into their page, in the order of the list; those of mutants that were not tried now
    stay."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    rows = {
        line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines() if line.startswith("| ")
    }
    rows.update({verdict.mutant.name: row(verdict) for verdict in verdicts})
    known = [rows[mutant.name] for mutant in MUTANTS if mutant.name in rows]
    head = ["| planted | what is wrong then | holds | found by |", "|---|---|---|---|"]
    table = "\n".join([*head, *known])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="these mutants only")
    parser.add_argument("--write", action="store_true", help="write what became of them into docs/mutants.md")
    parser.add_argument("--list", action="store_true", help="their names")
    asked = parser.parse_args(argv)
    known = {mutant.name: mutant for mutant in MUTANTS}
    if asked.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; --list lists them")
    verdicts: list[Verdict] = []
    broken = 0
    for mutant in (known[name] for name in asked.names) if asked.names else MUTANTS:
        try:
            verdicts.append(judge(mutant))
        except Broken as error:
            print(f"BROKEN    {error}", flush=True)
            broken += 1
            continue
        last = verdicts[-1]
        if asked.write:
            write([last])
        print(
            f"{last.how:9} {mutant.name}: {last.found_by or mutant.tests} ({last.seconds:.0f} s)", flush=True
        )
    survived = [verdict.mutant.name for verdict in verdicts if not verdict.found_by]
    print(
        f"{len(verdicts) - len(survived)} of {len(verdicts) + broken} found"
        + (f"; survived: {survived}" if survived else "")
    )
    return 2 if broken else 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
