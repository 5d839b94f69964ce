"""The mutants can be tried: each patch still fits the code, breaks no syntax, and names tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from tools.mutants import Broken, Mutant, patched
from tools.planted import KINDS, MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_patch_applies(mutant: Mutant) -> None:
    for path, text in patched(mutant, ROOT).items():
        assert text != path.read_text()
        compile(text, str(path), "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_tests_are_there(mutant: Mutant) -> None:
    for test in mutant.tests:
        file, _, function = test.partition("::")
        text = (ROOT / file).read_text()
        assert not function or f"def {function.partition('[')[0]}(" in text, test


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_that_people_found_has_a_mutant(kind: str) -> None:
    assert any(mutant.kind == kind for mutant in MUTANTS), (
        f"plant one of the kind {kind!r} in tools/planted.py: whether tests would find the next such fault is not known without"
    )


def test_kinds_are_of_the_list() -> None:
    assert {mutant.kind for mutant in MUTANTS} <= {"", *KINDS}


def test_names_are_different() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("times", [0, 2])
def test_one_that_applies_elsewhere_or_nowhere_is_told(tmp_path: Path, times: int) -> None:
    (tmp_path / "lifecycle").mkdir()
    (tmp_path / "lifecycle" / "door.py").write_text("pass\n" * times)
    mutant = Mutant("planted", "nothing", "I1", (("door.py", "pass", "..."),), ())
    with pytest.raises(Broken, match=f"door.py contains the text to be changed {times} times"):
        patched(mutant, tmp_path)
