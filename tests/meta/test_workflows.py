"""The workflows of the public CI run what a developer runs, with pinned actions and no rights but those they
need; the other packages of the project say what pyproject.toml says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def names(workflow: Path) -> str:
    return workflow.name


def commands(text: str) -> list[str]:
    return re.findall(r"^ +- run: (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=names)
def test_actions_are_pinned_to_commits(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)$", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v[\d.]+", one)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=names)
def test_no_right_is_given_that_is_not_needed(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    writes = set(re.findall(r"^ +([\w-]+): write", text, re.MULTILINE))
    assert writes <= ({"id-token", "attestations"} if workflow.name == "release.yml" else set())
    # What comes from outside is given to a shell as a variable, never as its text.
    assert [command for command in commands(text) if "${{" in command] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=names)
def test_what_they_run_is_there(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    (matrix,) = re.findall(r"^ +target: \[(.*)\]$", text, re.MULTILINE) or [""]
    made = [target.split()[0] for target in re.findall(r'"([^"]+)"', matrix)]
    for command in commands(text):
        made += [] if "$TARGET" in command else re.findall(r"(?:^|&& )make ([a-z-]+)\b", command)
        for script in re.findall(r"(?:^|\s)((?:tools|\.ci)/\S+)", command):
            assert (ROOT / script).exists(), script
    assert set(made) <= targets, set(made) - targets


def test_the_one_check_waits_for_every_job() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = re.findall(r"^  ([\w-]+):$", text[text.index("\njobs:") :], re.MULTILINE)
    (needed,) = re.findall(r"^    needs: \[(.*)\]$", text, re.MULTILINE)
    assert [*needed.split(", "), "all"] == jobs
    assert f'"{" ".join(["success"] * (len(jobs) - 1))}"' in text


def test_conda_says_what_the_project_says() -> None:
    recipe = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.*)"$', project, re.MULTILINE)
    (lowest,) = re.findall(r'^requires-python = ">=(.*)"$', project, re.MULTILINE)
    (needs,) = re.findall(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    assert f"\n  version: {version}\n" in recipe
    assert f'\n  python_min: "{lowest}"\n' in recipe
    (run,) = re.findall(r"^  run:\n(.*?)^  \w", recipe, re.MULTILINE | re.DOTALL)
    asked = [line.strip("- \n") for line in run.splitlines()][1:]
    assert [one.replace(" ", "") for one in asked] == re.findall(r'"([^"]+)"', needs)


def test_a_tag_that_is_not_the_version_is_refused() -> None:
    done = subprocess.run(
        [str(ROOT / "tools" / "ci" / "version.sh"), "v99.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the tag says 99.0" in done.stderr
