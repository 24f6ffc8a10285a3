"""The URL of a PostgreSQL database, which is shown without its password."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

SCHEMES: Final = ("postgresql", "postgres")
# Parameters in the original's environment that libpq does not know.
_OF_PRISMA: Final = {"schema", "connection_limit", "pool_timeout", "pgbouncer", "statement_cache_size"}


class PostgresUrl(msgspec.Struct, frozen=True):
    """`text` is the URL as libpq takes it; `shown`, and repr(), leave out user, password and parameters."""

    text: str
    shown: str

    def __repr__(self) -> str:
        return self.shown


def parse(given: str) -> PostgresUrl:
    """Parse postgresql://user:password@host:port/database?parameter=value. Raises ValueError."""
    wanted = "a URL like postgresql://user:password@host/database (with % codes for special characters)"
    try:
        parts = urlsplit(given)
        port = parts.port
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(wanted) from None
    database = unquote(parts.path[1:]) or parameters.get("dbname", "")
    if parts.scheme.lower() not in SCHEMES or not database or "/" in database or parts.fragment or "\0" in given:
        raise ValueError(wanted)
    known = "&".join(pair for pair in parts.query.split("&") if pair.partition("=")[0] not in _OF_PRISMA)
    host = unquote(parts.hostname or parameters.get("host", ""))
    place = f"{host}:{port}" if port else host
    text = f"postgresql://{parts.netloc}{parts.path}{'?' if known else ''}{known}"
    return PostgresUrl(text, f"postgresql://{place}/{database}")
