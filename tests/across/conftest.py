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

    def left() -> list[str]:
        node = (
            iox.NodeBuilder.new()
            .signal_handling_mode(iox.SignalHandlingMode.Disabled)
            .create(iox.ServiceType.Ipc)
        )
        node.try_cleanup_dead_nodes()
        found = iox.Service.list(iox.config.global_config(), iox.ServiceType.Ipc)
        return [
            service.name().to_string()
            for service in found
            if service is not None and service.name().to_string().startswith(name)
        ]

    gc.collect()
    eventually(lambda: not left())
