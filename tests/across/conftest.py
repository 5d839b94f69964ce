"""Topics of a test's own, of which nothing may be left."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator

import pytest

from tests.support import eventually

_numbers = itertools.count()


@pytest.fixture
def topic() -> Iterator[str]:
    """A name that no other test has. At the end no service of it is left."""
    name = f"test/{os.getpid()}/{next(_numbers)}"
    yield name
    import iceoryx2 as iox

    from lifecycle.integrations.iceoryx2 import _engine

    def left() -> list[str]:
        _engine.reap(_engine.settings())
        found = iox.Service.list(_engine.settings(), iox.ServiceType.Ipc)
        return [
            service.name().to_string()
            for service in found
            if service is not None and service.name().to_string().startswith(name)
        ]

    # Of raw processes that were to die: they have the engine's own settings.
    _engine.reap(iox.config.global_config())
    gc.collect()
    eventually(lambda: not left())
