"""The S3 bucket that the settings name."""

from __future__ import annotations

import msgspec


class Bucket(msgspec.Struct, frozen=True):
    """A bucket and how to reach it. `endpoint` and `public_url` are URLs without a slash at the end."""

    endpoint: str
    region: str
    name: str
    public_url: str
    """Public files are at `<public_url>/<key>`."""
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"{self.name} at {self.endpoint}"


def endpoint_of(host: str, port: int | None, use_ssl: bool) -> str:
    """Return the URL of an S3 server."""
    return f"{'https' if use_ssl else 'http'}://{host}{'' if port is None else f':{port}'}"
