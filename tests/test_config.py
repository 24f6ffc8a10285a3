"""Settings: where a value comes from, what a bad one says, and that docs/settings.md and --help know them all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from happy_light import config
from happy_light.errors import OperatorError
from tests import programs

SETTINGS = Path(__file__).parent.parent / "docs" / "settings.md"


def load(tmp_path: Path, environ: dict[str, str] | None = None, **flags: str) -> config.Settings:
    """Return settings with the data folder and the user's file below `tmp_path`."""
    environ = {"DATA_DIR": str(tmp_path / "data"), **(environ or {})}
    return config.load(environ, flags, tmp_path / "user.toml")


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `happy-server-light …` with nothing in the environment but `environ`."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    return programs.run(arguments, environ)


def test_flag_then_environment_then_files_then_default(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert (load(tmp_path).port, load(tmp_path).origins["port"]) == (3005, "default")
    (tmp_path / "user.toml").write_text("port = 1111\nregistration = 'first'\n")
    assert (load(tmp_path).port, load(tmp_path).origins["port"]) == (1111, str(tmp_path / "user.toml"))
    (data / "happy-server-light.toml").write_text("port = 2222\n")
    settings = load(tmp_path)
    assert (settings.port, settings.origins["port"]) == (2222, str(data / "happy-server-light.toml"))
    assert (settings.registration, settings.origins["registration"]) == ("first", str(tmp_path / "user.toml"))
    settings = load(tmp_path, {"PORT": "3333"})
    assert (settings.port, settings.origins["port"]) == (3333, "PORT")
    settings = load(tmp_path, {"PORT": "3333"}, port="4444")
    assert (settings.port, settings.origins["port"]) == (4444, "--port")


def test_blank_counts_as_unset(tmp_path: Path) -> None:
    settings = load(tmp_path, {"PORT": "", "HOST": " \t", "PUBLIC_URL": "  ", "HANDY_MASTER_SECRET": " "})
    assert (settings.port, settings.host, settings.public_url, settings.master_secret) == (
        3005,
        "127.0.0.1",
        None,
        None,
    )


def test_older_names_count_after_the_new_one(tmp_path: Path) -> None:
    older = {"HAPPY_SERVER_LIGHT_UI_DIR": "/b", "HAPPY_STATIC_DIR": "/c"}
    settings = load(tmp_path, older)
    assert (settings.ui_dir, settings.origins["ui_dir"]) == (Path("/b"), "HAPPY_SERVER_LIGHT_UI_DIR")
    assert load(tmp_path, {"HAPPY_SERVER_UI_DIR": "/a", **older}).ui_dir == Path("/a")
    assert load(tmp_path, {"HAPPY_SERVER_UI_DIR": " ", "HAPPY_STATIC_DIR": "/c"}).ui_dir == Path("/c")
    assert load(tmp_path, {"HAPPY_SERVER_LIGHT_UI_PREFIX": "/ui/"}).ui_prefix == "/ui"


def test_toml_values_of_every_type(tmp_path: Path) -> None:
    (tmp_path / "user.toml").write_text(
        "metrics_enabled = false\nsession_grace = 2.5\ntrusted_proxies = ['10.0.0.0/8', 'fd00::/8']\n"
        "public_url = 'https://happy.example/'\n[inject_html_config]\nname = 'Zoë'\n"
    )
    settings = load(tmp_path)
    assert settings.metrics_enabled is False
    assert settings.session_grace == 2.5
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert settings.public_url == "https://happy.example"
    assert settings.inject_html_config == {"name": "Zoë"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("file:/var/lib/h.db", "/var/lib/h.db"),
        ("file:///var/lib/h.db", "/var/lib/h.db"),
        ("file:///var/lib/a%20b.db?connection_limit=1", "/var/lib/a b.db"),
        ("/var/lib/h.db", "/var/lib/h.db"),
        ("file:./h.db", str(Path.cwd() / "h.db")),
        ("h.db", str(Path.cwd() / "h.db")),
    ],
)
def test_database_url(tmp_path: Path, given: str, expected: str) -> None:
    assert str(load(tmp_path, {"DATABASE_URL": given}).database) == expected


def test_folders_that_follow_from_others(tmp_path: Path) -> None:
    settings = load(tmp_path)
    data = tmp_path / "data"
    assert settings.database == data / "happy-server-light.sqlite"
    assert settings.files == data / "files"
    assert load(tmp_path, {"HAPPY_SERVER_LIGHT_FILES_DIR": "/files"}).files == Path("/files")
    home = config.load({"DATA_DIR": "~/x"}, {}, tmp_path / "none")
    assert home.data_dir == Path.home() / "x"


BAD = [
    ("PORT", "70000", "an integer from 0 to 65535"),
    ("PORT", "3005.5", "an integer from 0 to 65535"),
    ("PORT", "-1", "an integer from 0 to 65535"),
    ("PORT", "٣", "an integer from 0 to 65535"),
    ("METRICS_PORT", "x", "an integer from 0 to 65535"),
    ("METRICS_ENABLED", "maybe", "true or false"),
    ("PUBLIC_URL", "happy.example", "a URL like https://host or http://host:port"),
    ("PUBLIC_URL", "https://", "a URL like https://host or http://host:port"),
    ("PUBLIC_URL", "http://h:99999", "a URL like https://host or http://host:port"),
    ("PUBLIC_URL", "http://h/?a=1", "a URL like https://host or http://host:port"),
    ("DATABASE_URL", "file:", "postgresql://user:password@host/database, or the path or file: URL of a SQLite file"),
    ("HAPPY_SERVER_UI_PREFIX", "ui", "/ or a path like /ui that is none of the server's own"),
    ("HAPPY_SERVER_UI_PREFIX", "/v1", "/ or a path like /ui that is none of the server's own"),
    ("HAPPY_INJECT_HTML_CONFIG", "[1]", "a JSON object"),
    ("HAPPY_INJECT_HTML_CONFIG", "{", "a JSON object"),
    ("LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("LOG_FORMAT", "xml", "text or json"),
    ("TRUSTED_PROXIES", "10.0.0.0/33", "addresses or networks like 10.0.0.0/8 between commas, or none"),
    ("HAPPY_SERVER_LIGHT_REGISTRATION", "never", "open, first or closed"),
    ("HAPPY_SERVER_LIGHT_SESSION_GRACE", "nan", "seconds from 0 to 86400"),
    ("HAPPY_SERVER_LIGHT_VOICE_FREE_SECONDS", "1e3", "a whole number from 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_a_bad_value_is_one_sentence(tmp_path: Path, name: str, value: str, expected: str) -> None:
    with pytest.raises(OperatorError) as refused:
        load(tmp_path, {name: value})
    assert str(refused.value) == f"{name} is {value!r}, but should be {expected}."


def test_sentences_do_not_give_away_secrets(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as refused:
        load(tmp_path, {"DATABASE_URL": "mysql://happy:s3cret@db/happy"})
    assert "DATABASE_URL is 'mysql://…@db/happy', but" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "prot in {file} is no setting; did you mean port?"),
        ("xyzzy = 1", "xyzzy in {file} is no setting; `happy-server-light config` lists them."),
        ("port = ", "The configuration file {file} is not TOML: "),
        ("port = 'x'", "port in {file} is 'x', but should be an integer from 0 to 65535."),
        ("port = true", "port in {file} is 'true', but should be an integer from 0 to 65535."),
        ("data_dir = '/x'", "data_dir in {file} has no effect, since that file lies in the data folder; remove it."),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "data" / "happy-server-light.toml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(OperatorError) as refused:
        load(tmp_path)
    assert str(refused.value).startswith(expected.format(file=file))


def test_tls_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"^TLS_KEY is not set"):
        load(tmp_path, {"TLS_CERT": "/c.pem"})
    with pytest.raises(OperatorError, match=r"^TLS_CERT is not set"):
        load(tmp_path, {}, tls_key="/k.pem")


def test_a_bad_value_ends_the_program_with_2(tmp_path: Path) -> None:
    ended = command(PORT="http", DATA_DIR=str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr == "happy-server-light: PORT is 'http', but should be an integer from 0 to 65535.\n"
    assert ended.stdout == ""
    ended = command("--port", "http", DATA_DIR=str(tmp_path))
    assert ended.stderr == "happy-server-light: --port is 'http', but should be an integer from 0 to 65535.\n"


def test_config_shows_value_and_origin_and_masks_secrets(tmp_path: Path) -> None:
    environ = {
        "DATA_DIR": str(tmp_path), "HANDY_MASTER_SECRET": "topsecret", "GITHUB_CLIENT_SECRET": "topsecret",
        "ELEVENLABS_API_KEY": "topsecret", "LIVEKIT_API_SECRET": "topsecret",
    }  # fmt: skip
    ended = command("config", "--json", "--port", "4000", **environ)
    assert ended.returncode == 0
    entries = {entry["name"]: entry for entry in json.loads(ended.stdout)}
    assert list(entries) == [row.name for row in config.SETTINGS]
    assert entries["port"] == {"name": "port", "env": "PORT", "group": "Server", "value": "4000", "origin": "--port"}
    assert entries["data_dir"]["origin"] == "DATA_DIR"
    assert entries["master_secret"]["value"] == "********"
    assert entries["tls_cert"]["value"] is None
    plain = command("config", **environ)
    assert re.search(r"^\* master_secret +HANDY_MASTER_SECRET +\*{8} +HANDY_MASTER_SECRET$", plain.stdout, re.MULTILINE)
    assert re.search(r"^  port +PORT +3005 +default$", plain.stdout, re.MULTILINE)
    assert "topsecret" not in ended.stdout + plain.stdout
    assert not list(tmp_path.iterdir()), "`config` only looks"


def test_help_knows_every_setting_that_is_no_secret() -> None:
    for arguments in (("--help",), ("serve", "--help"), ("config", "--help")):
        text = command(*arguments, COLUMNS="200").stdout
        flags = set(re.findall(r"^  (--[a-z0-9-]+) ", text, re.MULTILINE))
        assert {row.option for row in config.SETTINGS if not row.secret} <= flags
        assert not {row.option for row in config.SETTINGS if row.secret} & flags


def test_every_row_has_a_name_of_its_own() -> None:
    names = [name for row in config.SETTINGS for name in row.env]
    assert len(names) == len(set(names))
    assert [row.name for row in config.SETTINGS] == [f.name for f in dataclasses.fields(config.Settings)][:-1]
    assert all(row.env and row.help and not row.help.endswith(".") for row in config.SETTINGS)


def test_the_readme_has_the_table() -> None:
    found = re.search(r"<!-- settings.*?-->\n(.*)<!-- end of settings -->", SETTINGS.read_text("utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == config.markdown_table(), "run `make settings`"
