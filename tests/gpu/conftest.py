"""Fixtures for tests on real OpenGL: a context each, a manager, and a count that is not ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import missing

if TYPE_CHECKING:
    from lifecycle import SafetyManager
    from lifecycle.integrations.gpu.opengl import Domain
    from tests.gpu.contexts import Context


# On a software renderer they take minutes, which the suite does not have: `make test-gpu` runs them.
collect_ignore_glob = [] if os.environ.get("LIFECYCLE_GPU") else ["test_*.py"]


@pytest.fixture
def context() -> Iterator[Context]:
    """A new OpenGL 4.5 context, current on this thread."""
    if reason := missing("gl"):
        pytest.skip(reason)
    from tests.gpu import contexts

    made = contexts.Context().make_current()
    yield made
    made.destroy()
    contexts.release_current()


@pytest.fixture
def domain(context: Context, manager: SafetyManager) -> Iterator[Domain]:
    """The adopted context. At the end nothing may be left in it: OpenGL itself is asked for names."""
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import names

    made = adopt(manager=manager)
    before = names.living()
    yield made
    if not made.lost_reason:
        if not made.here():
            context.make_current()
        made.timeline.wait(20)
        made.drain()
        assert names.living() == before
        made.close()


@pytest.fixture
def gl() -> Any:
    """PyOpenGL."""
    if reason := missing("gl"):
        pytest.skip(reason)
    from OpenGL import GL

    return GL
