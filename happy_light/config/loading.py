"""Find the values of settings.

The first of these that is set counts: flag, environment variable, configuration file in the data folder,
configuration file of the user, default. A blank value counts as unset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from happy_light.config.names import nearest
from happy_light.config.settings import SETTINGS, Row, Settings
from happy_light.errors import OperatorError

FILE_NAME: Final = "happy-server-light.toml"
DEFAULT: Final = "default"
"""The origin of a value that nobody set."""

_BY_NAME = {row.name: row for row in SETTINGS}


def load(environ: Mapping[str, str], flags: Mapping[str, Any], user_file: Path | None = None) -> Settings:
    """Return the settings in force.

    `flags`: text by the name of the setting. `user_file`: the user's configuration file, by default in platformdirs'
    user_config_path. Raises OperatorError for a value that does not fit and for an unknown key in a file.
    """
    user = _read(user_file or _user_file())
    data_dir, _ = _value(_BY_NAME["data_dir"], environ, flags, (user,))
    own = _read(data_dir / FILE_NAME)
    if "data_dir" in own.texts:
        raise OperatorError(
            f"data_dir in {own.path} has no effect, since that file lies in the data folder; remove it."
        )
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for row in SETTINGS:
        found[row.name], origins[row.name] = _value(row, environ, flags, (own, user))
    settings = Settings(**found, origins=origins)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "TLS_KEY" if settings.tls_key is None else "TLS_CERT"
        raise OperatorError(f"{missing} is not set, but TLS needs both TLS_CERT and TLS_KEY.")
    _check_bucket(settings)
    if settings.redis_url is not None:
        _check_several(settings)
    return settings


def _check_several(settings: Settings) -> None:
    """Raise OperatorError if several processes cannot be one server with these settings."""
    if settings.postgres is None:
        raise OperatorError(
            "REDIS_URL is set, but several processes can only share a PostgreSQL database; "
            "set DATABASE_URL=postgresql://…, or unset REDIS_URL."
        )
    if settings.master_secret is None:
        raise OperatorError(
            "REDIS_URL is set, but HANDY_MASTER_SECRET is not: give every process the same one, "
            "or each makes its own and refuses the tokens of the others."
        )


def _check_bucket(settings: Settings) -> None:
    """Raise OperatorError if an S3 server or a bucket is named, and something is missing that it needs."""
    server = settings.s3_endpoint or settings.s3_host
    if server is None and settings.s3_bucket is None:
        return
    needed = {
        "S3_ENDPOINT (or S3_HOST)": server, "S3_BUCKET": settings.s3_bucket,
        "S3_ACCESS_KEY": settings.s3_access_key, "S3_SECRET_KEY": settings.s3_secret_key,
    }  # fmt: skip
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise OperatorError(f"{missing[0]} is not set, but a bucket needs {', '.join(needed)}.")


class _ConfigFile(msgspec.Struct):
    """A configuration file: the texts of its keys."""

    path: Path
    texts: dict[str, str]


def _user_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("happy-server-light") / FILE_NAME


def _read(path: Path) -> _ConfigFile:
    try:
        with path.open("rb") as file:
            import tomllib

            keys = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return _ConfigFile(path, {})
    except OSError as error:
        raise OperatorError(f"The configuration file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OperatorError(f"The configuration file {path} is not TOML: {error}.") from error
    unknown = sorted(keys.keys() - _BY_NAME.keys())
    if unknown:
        hint = nearest(unknown[0], _BY_NAME) or "; `happy-server-light config` lists them."
        raise OperatorError(f"{unknown[0]} in {path} is no setting{hint}")
    return _ConfigFile(path, {name: _text(value) for name, value in keys.items()})


def _text(value: Any) -> str:
    """Return a TOML value as it would be written in the environment."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value, default=str) if isinstance(value, dict | bool) else str(value)


def _value(
    row: Row, environ: Mapping[str, str], flags: Mapping[str, Any], files: Iterable[_ConfigFile]
) -> tuple[Any, str]:
    """Return the value of a setting and its origin."""
    places = [
        (row.option, row.option, flags.get(row.name)),
        *((name, name, environ.get(name)) for name in row.env),
        *((f"{row.name} in {file.path}", str(file.path), file.texts.get(row.name)) for file in files),
        (row.name, DEFAULT, row.default),
    ]
    for place, origin, given in places:
        if given is None or not given.strip():
            continue
        try:
            return row.parse(given.strip()), origin
        except ValueError as error:
            # A URL may carry a password, whatever the setting is.
            shown = "a secret" if row.secret else repr(re.sub(r"//.*@", "//…@", given.strip()))
            raise OperatorError(f"{place} is {shown}, but should be {error}.") from None
    return None, DEFAULT
