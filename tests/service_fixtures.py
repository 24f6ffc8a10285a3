"""PostgreSQL, Redis and S3 for tests. A test module says `pytest_plugins = ["tests.service_fixtures"]`.

HAPPY_TEST_DATABASE_URL and HAPPY_TEST_REDIS_URL name servers to use instead of private ones; what kills or restarts
its server always has one of its own. Where a program is missing the tests are skipped, but with CI or
HAPPY_TEST_REQUIRE_SERVICES set they fail.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.redis_services import Redis, RedisCluster
from tests.s3_services import Moto, Rclone
from tests.services import Databases, Missing, Postgres, Service

S = TypeVar("S", Postgres, Redis, RedisCluster, Moto, Rclone, Service)


def started(make: Callable[[], S]) -> S:
    """Return the running service that `make` makes. Skip the test, or fail it, when its program is missing."""
    try:
        service = make()
        try:
            return service.start()
        except BaseException:
            service.remove()
            raise
    except Missing as reason:
        if os.environ.get("CI") or os.environ.get("HAPPY_TEST_REQUIRE_SERVICES"):
            pytest.fail(f"a service that the tests need is missing: {reason}", pytrace=False)
        pytest.skip(str(reason))


@contextlib.contextmanager
def running(make: Callable[[], S]) -> Iterator[S]:
    """As `started`, and removed at the end."""
    service = started(make)
    try:
        yield service
    finally:
        service.remove()


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """Return the PostgreSQL that the tests of a worker share: each makes databases of its own."""
    if url := os.environ.get("HAPPY_TEST_DATABASE_URL"):
        yield Databases(url)
        return
    with running(lambda: Postgres(fsync=False)) as postgres:
        yield postgres


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """Return the URL of an empty database of this test's own."""
    with databases.database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the Redis that the tests of a worker share."""
    if url := os.environ.get("HAPPY_TEST_REDIS_URL"):
        yield url
        return
    with running(Redis) as redis:
        yield redis.url


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., Postgres]]:
    """Start a PostgreSQL of this test's own, to be killed: `start_postgres(fsync=True)`."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(lambda: Postgres(**options)))


@pytest.fixture
def start_redis() -> Iterator[Callable[..., Redis]]:
    """Start a Redis of this test's own: `start_redis(persistent=False, cluster=False, policy="noeviction")`."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(lambda: Redis(**options)))


@pytest.fixture
def redis_cluster() -> Iterator[RedisCluster]:
    """Start a cluster of three Redis servers of this test's own."""
    with running(RedisCluster) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """Return an S3 server that stores whatever it is sent."""
    with running(Moto) as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[Rclone]:
    """Return an S3 server that checks the signatures of presigned GETs."""
    with running(Rclone) as server:
        yield server
