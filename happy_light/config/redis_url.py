"""The URL of a Redis or Valkey server, which is shown without its password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys")


class RedisUrl(msgspec.Struct, frozen=True):
    """`text` is the URL as the library takes it; `shown`, and repr(), leave out user, password and parameters."""

    text: str
    shown: str

    def __repr__(self) -> str:
        return self.shown

    def at(self, host: str, port: int) -> str:
        """Return the text of this URL for another node of the same cluster; "" as host means the same."""
        parts = urlsplit(self.text)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        host = host or parts.hostname or ""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return parts._replace(netloc=f"{user}{place}").geturl()


def parse(given: str) -> RedisUrl:
    """Parse redis://user:password@host:port/database; rediss for TLS. Raises ValueError."""
    wanted = "a URL like redis://:password@host:6379/0, or rediss://… for TLS (with % codes for special characters)"
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    scheme = parts.scheme.lower().replace("valkey", "redis")
    if parts.scheme.lower() not in SCHEMES or not parts.hostname or not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError(wanted)
    if parts.fragment or "\0" in given or "redis_connect_func" in parts.query:
        raise ValueError(wanted)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{port}" if port else host
    query = f"?{parts.query}" if parts.query else ""
    return RedisUrl(f"{scheme}://{parts.netloc}{parts.path}{query}", f"{scheme}://{place}{parts.path}")
