"""The tests of happy-server-light."""

import pytest

# Test modules import helpers of these plugins, which as plugins would come too late for explained assertions.
pytest.register_assert_rewrite("tests.postgres_fixtures", "tests.process_fixtures")
