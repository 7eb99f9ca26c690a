"""Fixtures of the tests of judges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_engines import TinyEngines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyEngines]:
    """Yield engines on tiny models, loaded on first use and shared by the tests of a module."""
    engines = TinyEngines(tmp_path_factory.mktemp("models"))
    yield engines
    engines.close()
