"""The tests of happy-server-light."""

import pytest

# It has helpers that test modules import, and fixtures: as a plugin it would come too late for explained assertions.
pytest.register_assert_rewrite("tests.postgres_fixtures")
