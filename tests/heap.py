"""A fixture for folders whose tests collect all the time: their conftest imports it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def collections_are_of_the_tests_own() -> Iterator[None]:
    """Half a million objects of pytest, of libraries and of the tests themselves are there by now: no
    collection of this module's tests looks through them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
