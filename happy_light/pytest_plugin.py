"""pytest fixtures; a project's conftest.py takes them in with `pytest_plugins = ["happy_light.pytest_plugin"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from happy_light.testing import RunningServer, server_on_a_thread


@pytest.fixture(scope="session")
def happy_server() -> Iterator[RunningServer]:
    """One server for all tests, for async and other tests alike; each makes accounts of its own."""
    with server_on_a_thread() as server:
        yield server
