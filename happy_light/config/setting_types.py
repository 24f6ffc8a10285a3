"""The types of settings: each parses text, and raises ValueError with what is expected."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from happy_light.config import postgres_url, redis_url
from happy_light.config.postgres_url import PostgresUrl
from happy_light.config.redis_url import RedisUrl

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_RESERVED = {"v1", "v2", "v3", "files", "health", "metrics", "docs", "openapi.json", "admin"}


def text(given: str) -> str:
    """Return the text as it is."""
    return given


def flag(given: str) -> bool:
    """Parse true or false."""
    if given.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("true or false")
    return given.lower() in _TRUE


def count(given: str) -> int:
    """Parse a number of things, up to ten digits."""
    if not re.fullmatch(r"[0-9]{1,10}", given):
        raise ValueError("a whole number from 0")
    return int(given)


def port(given: str) -> int:
    """Parse a TCP port; 0 means any."""
    if not re.fullmatch(r"[0-9]{1,5}", given) or int(given) > 65535:
        raise ValueError("an integer from 0 to 65535")
    return int(given)


def seconds(given: str) -> float:
    """Parse seconds, at most a day."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,6})?", given) or float(given) > 86_400:
        raise ValueError("seconds from 0 to 86400")
    return float(given)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def duration(given: str) -> int:
    """Parse a time like 10m or 90d into s."""
    if not re.fullmatch(r"[0-9]{1,9}[smhdw]", given) or not int(given[:-1]):
        raise ValueError("a time like 10m, 12h or 90d")
    return int(given[:-1]) * _UNITS[given[-1]]


def duration_text(seconds: int) -> str:
    """Return s as a text that `duration` parses, in the largest unit without a rest."""
    unit, size = max(((unit, size) for unit, size in _UNITS.items() if seconds % size == 0), key=lambda item: item[1])
    return f"{seconds // size}{unit}"


class OneOf:
    """One of some words, in any case."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, given: str) -> str:
        """Parse a word into lower case."""
        if given.lower() not in self.words:
            raise ValueError(f"{', '.join(self.words[:-1])} or {self.words[-1]}")
        return given.lower()


def path(given: str) -> Path:
    """Parse a path into an absolute one; `~` is the user's home."""
    if "\0" in given:
        raise ValueError("a path")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a path without ~ (this user has no home folder)") from None


def database(given: str) -> Path | PostgresUrl:
    """Parse the URL of a PostgreSQL database, a path, or a file: URL, whose query is ignored."""
    if given.partition(":")[0].lower() in postgres_url.SCHEMES:
        return postgres_url.parse(given)
    if given.lower().startswith("file:"):
        given = re.sub(r"^//(localhost)?(?=/)", "", unquote(given[5:].partition("?")[0]))
    if re.match(r"[a-z][a-z0-9+.-]+:", given, re.IGNORECASE) or not given:
        raise ValueError("postgresql://user:password@host/database, or the path or file: URL of a SQLite file")
    return path(given)


def redis(given: str) -> RedisUrl:
    """Parse the URL of a Redis server."""
    return redis_url.parse(given)


def url(given: str) -> str:
    """Parse an http(s) URL; a trailing slash is removed."""
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    if not good or "?" in given or "#" in given or "@" in given or re.search(r"[\s\"'<>\\]", given):
        raise ValueError("a URL like https://host or http://host:port")
    return given.rstrip("/")


def host(given: str) -> str:
    """Parse the name or address of a computer, without a scheme and a port."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]", given):
        raise ValueError("a host without scheme and port, like s3.example.com")
    return given


def prefix(given: str) -> str:
    """Parse the path where something is mounted: `/`, or `/name` without trailing slash."""
    given = given.rstrip("/")
    if given and (not re.fullmatch(r"(/[A-Za-z0-9_-]+)+", given) or given.split("/")[1] in _RESERVED):
        raise ValueError("/ or a path like /ui that is none of the server's own")
    return given or "/"


def networks(given: str) -> tuple[Network, ...]:
    """Parse addresses and networks between commas; `none` is the empty list."""
    if given.lower() == "none":
        return ()
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in re.split(r"[\s,]+", given.strip(" ,")))
    except ValueError:
        raise ValueError("addresses or networks like 10.0.0.0/8 between commas, or none") from None


def json_object(given: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(given)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("a JSON object")
    return value
