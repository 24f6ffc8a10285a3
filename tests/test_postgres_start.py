"""The start with PostgreSQL: the URL, the library, the schema; what is refused, and that nothing else is touched."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from happy_light import config
from happy_light.config import PostgresUrl, postgres_url
from happy_light.errors import OperatorError
from happy_light.store import SCHEMA_VERSION
from happy_light.store.postgres import schema
from tests import programs
from tests.client import World
from tests.commands import environment, run
from tests.conftest import Start
from tests.services import Databases, with_database

pytest_plugins = ["tests.service_fixtures"]

PASSWORD = "p/ss@w%rd"
QUOTED = "p%2Fss%40w%25rd"


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement on the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def migrate(url: str) -> None:
    """Do what a start does."""
    schema.create_or_migrate(postgres_url.parse(url))


def refused(url: str) -> str:
    """Return the sentence that refuses a database."""
    with pytest.raises(OperatorError) as error:
        migrate(url)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


# --------------------------------------------------------------------------------------------- the URL
@pytest.mark.parametrize(
    ("given", "text", "shown"),
    [
        ("postgres://u:p@db.example/happy", "postgresql://u:p@db.example/happy", "postgresql://db.example/happy"),
        ("postgresql://u@h:6432/d?sslmode=require", "postgresql://u@h:6432/d?sslmode=require", "postgresql://h:6432/d"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=/run/pg", "postgresql:///run/pg/d"),
        ("postgresql://u:p@h/d?schema=public&connection_limit=5", "postgresql://u:p@h/d", "postgresql://h/d"),
    ],
)
def test_urls(tmp_path: Path, given: str, text: str, shown: str) -> None:
    settings = config.load({"DATABASE_URL": given}, {"data_dir": str(tmp_path)}, tmp_path / "none")
    assert settings.postgres == PostgresUrl(text, shown)
    assert str(settings.postgres) == shown


@pytest.mark.parametrize(
    "given", [f"postgresql://u:{PASSWORD}@h", "postgresql://h/", f"postgresql://u:{PASSWORD}@h:port/d", "postgres:d"]
)
def test_bad_urls_are_refused_without_their_password(tmp_path: Path, given: str) -> None:
    with pytest.raises(OperatorError, match=r"DATABASE_URL is .* but should be a URL like postgresql:") as error:
        config.load({"DATABASE_URL": given}, {"data_dir": str(tmp_path)}, tmp_path / "none")
    assert "ss@w" not in str(error.value)


async def test_config_and_errors_do_not_show_the_password(tmp_path: Path) -> None:
    url = f"postgresql://user:{QUOTED}@127.0.0.1:1/happy"
    shown = await run(tmp_path, "config", DATABASE_URL=url)
    assert "postgresql://127.0.0.1:1/happy" in shown.out
    failed = await run(tmp_path, "migrate", DATABASE_URL=url)
    assert failed.status == 2
    assert "The database postgresql://127.0.0.1:1/happy cannot be reached: " in failed.err
    for text in (shown.out, shown.err, failed.err):
        assert PASSWORD not in text and QUOTED not in text and "user" not in text


# ----------------------------------------------------------------------------------------- the library
def test_the_light_flavor_imports_nothing_of_psycopg() -> None:
    code = (
        "import sys; from happy_light import app, cli, server; from happy_light.server import process;"
        "from happy_light.store import engine_of; from happy_light import config;"
        "engine_of(config.load({}, {'data_dir': '/nowhere'}));"
        "print(sorted(name for name in sys.modules if name.startswith(('psycopg', 'happy_light.store.postgres'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_missing_library_is_a_sentence_that_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')")
    paths = f"{tmp_path}:{Path.cwd()}"
    failed = subprocess.run(
        [*programs.COMMAND, "migrate", "--data-dir", str(tmp_path / "data")],
        env=environment(tmp_path / "data", DATABASE_URL="postgresql://h/d", PYTHONPATH=paths),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert failed.returncode == 2
    assert failed.stderr.strip() == (
        "happy-server-light: PostgreSQL needs a library that is not installed; "
        "install it with: pip install 'happy-server-light[full]'."
    )


# ------------------------------------------------------------------------------------------ the schema
def test_the_schema_is_created_beside_what_is_there(database_url: str) -> None:
    rows(database_url, 'CREATE TABLE "Account" (id text); CREATE TABLE accounts (theirs integer)')
    migrate(database_url)
    migrate(database_url)
    found = rows(database_url, "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN "
                               "('public', 'happy_light')")  # fmt: skip
    assert [name for place, name in sorted(found) if place == "public"] == ["Account", "accounts"]
    assert ("happy_light", "messages") in found
    assert rows(database_url, "SELECT theirs FROM public.accounts") == []
    assert rows(database_url, "SELECT value FROM happy_light.meta") == [(str(SCHEMA_VERSION),)]


async def test_processes_that_start_together_create_it_once(database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrate, database_url) for _ in range(5)))
    assert rows(database_url, "SELECT count(*) FROM happy_light.meta") == [(1,)]


def test_a_migration_is_all_or_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database_url)
    version = SCHEMA_VERSION
    monkeypatch.setattr(schema, "SCHEMA_VERSION", version + 1)
    good = "CREATE TABLE later (id text PRIMARY KEY); ALTER TABLE meta ADD COLUMN note text;"
    monkeypatch.setitem(schema.MIGRATIONS, version, f"{good} INSERT INTO nowhere VALUES (1);")
    assert 'relation "nowhere" does not exist' in refused(database_url)
    assert rows(database_url, "SELECT to_regclass('happy_light.later')") == [(None,)]
    monkeypatch.setitem(schema.MIGRATIONS, version, good)
    migrate(database_url)
    assert rows(database_url, "SELECT value, note FROM happy_light.meta") == [(str(version + 1), None)]


async def test_the_schema_before_devices_becomes_that_of_a_new_database(
    databases: Databases, database_url: str, tmp_path: Path
) -> None:
    """Its tokens, which have no record, are good until the device that stands for them is signed out."""
    migrate(database_url)
    columns = (
        "SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'happy_light' ORDER BY table_name, column_name"
    )
    new = rows(database_url, columns)
    rows(
        database_url,
        "DROP TABLE happy_light.devices; ALTER TABLE happy_light.accounts DROP COLUMN device_sign_outs; "
        "ALTER TABLE happy_light.auth_requests DROP COLUMN approved_by, DROP COLUMN device_id; "
        "UPDATE happy_light.meta SET value = '6'; INSERT INTO happy_light.accounts (id, public_key, created_at, "
        f"updated_at) VALUES ('cold', '{'0' * 64}', 1, 1)",
    )
    migrate(database_url)
    assert rows(database_url, columns) == new
    (row,) = rows(database_url, "SELECT account_id, id, kind, created_at FROM happy_light.devices")
    assert row == ("cold", "unknown", "older", 1)
    (tmp_path / "data").mkdir()
    listed = await run(tmp_path / "data", "accounts", "devices", "cold", "--json", DATABASE_URL=database_url)
    assert listed.status == 0, listed.err
    assert [device["id"] for device in listed.json] == ["unknown"]


def test_every_version_has_its_migration() -> None:
    assert sorted(schema.MIGRATIONS) == list(range(schema.FIRST_VERSION, SCHEMA_VERSION))


def test_a_newer_schema_is_refused(database_url: str) -> None:
    migrate(database_url)
    rows(database_url, "UPDATE happy_light.meta SET value = '99'")
    assert f"written by a newer happy-server-light (schema 99, this one knows {SCHEMA_VERSION})" in refused(
        database_url
    )


def test_another_programs_schema_of_this_name_is_left_alone(database_url: str) -> None:
    rows(database_url, "CREATE SCHEMA happy_light; CREATE TABLE happy_light.notes (text text)")
    assert "belongs to another program and was not touched" in refused(database_url)
    assert rows(database_url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'happy_light'::regnamespace") == [
        (1,)
    ]


def test_another_encoding_is_refused(databases: Databases) -> None:
    name = "happy_test_latin"
    rows(databases.url, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0 LOCALE_PROVIDER libc")
    url = with_database(databases.url, name)
    try:
        assert "has the encoding LATIN1" in refused(url)
    finally:
        databases.drop(url)


def test_an_old_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SERVER_MIN", 99)
    assert "install 99 or newer" in refused(database_url)


def test_a_user_who_may_not_create_a_schema_is_told_what_to_ask_for(database_url: str) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"])
    role = f"{name}_weak"
    rows(database_url, f"CREATE ROLE {role} LOGIN")
    try:
        weak = database_url.replace("://happy@", f"://{role}@")
        assert f'GRANT CREATE ON DATABASE "{name}" TO "{role}"' in refused(weak)
        rows(database_url, "CREATE SCHEMA happy_light")
        assert "name the user in DATABASE_URL who has made the schema happy_light" in refused(weak)
    finally:
        rows(database_url, f"DROP ROLE {role}")


# ------------------------------------------------------------------------------------------- a server
@pytest.mark.slow
async def test_a_server_keeps_everything_in_postgres(start: Start, database_url: str, tmp_path: Path) -> None:
    server = start(DATABASE_URL=database_url)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        await alice.send(session, "one")
        answer = await alice.get("/v1/sessions", headers={"If-None-Match": "*"})
        assert (answer.status_code, answer.headers.get("etag")) == (200, None), "others may have changed the list"
        key = alice.key
    assert server.stop() == 0
    assert not list((tmp_path / "data").glob("*.sqlite*"))
    stats = await run(tmp_path / "data", "stats", "--json", DATABASE_URL=database_url)
    assert stats.json["records"]["messages"] == 1
    again = start(folder=tmp_path / "another", DATABASE_URL=database_url)
    async with World(again.url) as world:
        alice = await world.account(key)
        assert len((await alice.ok("GET", f"/v3/sessions/{session}/messages"))["messages"]) == 1
    assert again.stop() == 0


@pytest.mark.slow
async def test_commands_on_postgres(start: Start, database_url: str, tmp_path: Path) -> None:
    folder, archive = tmp_path / "data", tmp_path / "backup.tar.gz"
    server = start(DATABASE_URL=database_url)
    async with World(server.url) as world:
        alice = await world.account()
        await alice.session()
        for running in (True, False):
            if not running:
                assert server.stop() == 0
            for command in (("accounts", "list"), ("accounts", "show", alice.id), ("stats",), ("prune",), ("migrate",)):
                if command == ("migrate",) and running:
                    continue
                done = await run(folder, *command, DATABASE_URL=database_url)
                assert done.status == 0, (command, done)
            doctor = await run(folder, "doctor", "--json", DATABASE_URL=database_url)
            found = {one["name"]: one["level"] for one in doctor.json}
            assert found["database"] == found["connections"] == found["secret"] == found["numbering"] == "ok", doctor
    exported = await run(folder, "export", alice.id, str(tmp_path / "account"), "--json", DATABASE_URL=database_url)
    assert exported.status == 0 and exported.json["counts"]["sessions"] == 1, exported
    elsewhere = await run(tmp_path / "elsewhere", "import", str(tmp_path / "account"), HANDY_MASTER_SECRET="")
    assert elsewhere.status == 0, elsewhere
    here = await run(folder, "import", str(tmp_path / "account"), DATABASE_URL=database_url)
    assert here.status == 2 and "--force replaces it" in here.err
    made = await run(folder, "backup", str(archive), DATABASE_URL=database_url)
    assert made.status == 0 and "pg_dump" in made.out
    restored = await run(tmp_path / "restored", "restore", str(archive), DATABASE_URL=database_url)
    assert restored.status == 0 and "pg_restore" in restored.out
    light = await run(tmp_path / "light", "restore", str(archive))
    assert light.status == 2 and "kept it in PostgreSQL" in light.err
    deleted = await run(folder, "accounts", "delete", alice.id, "--yes", DATABASE_URL=database_url)
    assert deleted.status == 0, deleted
    assert rows(database_url, "SELECT count(*) FROM happy_light.accounts") == [(0,)]
