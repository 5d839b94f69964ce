"""Builds the stand-in for the vendor's library, and looks after each test whether it was misused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

COMPILER = shutil.which(os.environ.get("CC", "cc"))
if COMPILER is None:
    raise pytest.UsageError("these tests need a C compiler (cc): they build a stand-in for libacmemeter")
FOLDER = Path(mkdtemp(prefix="acmemeter-"))
LIBRARY = FOLDER / "libacmemeter.so"
SOURCE = Path(__file__).with_name("acmemeter.c")
subprocess.run([COMPILER, "-Wall", "-Werror", "-shared", "-fPIC", "-o", LIBRARY, SOURCE], check=True)
os.environ["ACMEMETER_LIBRARY"] = str(LIBRARY)


def pytest_unconfigure() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(autouse=True)
def sdk() -> Iterator[Any]:
    """The stand-in. After each test: nothing open, nothing lent, no misuse."""
    from acmemeter import _sdk

    yield _sdk.library
    # Workers release: they may still be at it.
    until = time.monotonic() + 20
    while (_sdk.library.meter_opened(), _sdk.library.meter_lent()) != (0, 0) and time.monotonic() < until:
        time.sleep(0.001)
    assert (_sdk.library.meter_opened(), _sdk.library.meter_lent()) == (0, 0)
    assert _sdk.library.meter_misuses() == 0, "the SDK was misused"
