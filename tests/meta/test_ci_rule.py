"""A skip for a missing part is a skip for a developer and a failure on CI; any other skip is a skip
everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SUITE = """
import pytest
import tests.conftest as rule
rule.PARTS["unobtainium"] = (lambda: False, "dig for it")

@pytest.mark.needs("unobtainium")
def test_marked(): raise AssertionError("runs although a part is missing")

def test_by_hand(): pytest.skip("needs unobtainium: dig for it")

@pytest.mark.skipif(True, reason="only on Windows")
def test_platform(): raise AssertionError("runs on another platform")

@pytest.mark.xfail(reason="needs work")
def test_expected(): assert not "fixed"
"""
MODULE = 'import pytest\npytest.skip("needs unobtainium: dig for it", allow_module_level=True)\n'


def run(folder: Path, ci: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q", str(folder)],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -rs\nmarkers =\n    needs(*parts): x\n")
    (tmp_path / "test_parts.py").write_text(SUITE)
    return tmp_path


def test_a_developer_may_miss_a_part(folder: Path) -> None:
    output = run(folder, "")
    assert "3 skipped, 1 xfailed" in output, output
    assert "needs unobtainium: dig for it" in output


def test_ci_may_not(folder: Path) -> None:
    output = run(folder, "true")
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in output, output
    assert "on CI every part is installed, but this test needs unobtainium: dig for it" in output


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_whole_module(folder: Path, ci: str, outcome: str) -> None:
    (folder / "test_module.py").write_text(MODULE)
    output = run(folder / "test_module.py", ci)
    assert outcome in output, output


def test_an_unknown_part_is_refused(folder: Path) -> None:
    (folder / "test_typo.py").write_text(
        'import pytest\n@pytest.mark.needs("gstraemer")\ndef test_typo(): raise AssertionError("runs")\n'
    )
    output = run(folder, "")
    assert "needs('gstraemer'): the parts are gstreamer," in output, output
