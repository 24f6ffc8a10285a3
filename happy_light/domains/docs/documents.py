"""The two documents that describe the server, made at the first request and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from happy_light import json_codec
from happy_light.domains.docs import page


class Documents:
    """The OpenAPI document and the HTML page. `describe` returns the former."""

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        self._describe = describe
        self._json: bytes | None = None
        self._page: str | None = None

    def json(self) -> bytes:
        """Return the OpenAPI document, encoded. The first call takes about 50 ms."""
        if self._json is None:
            self._json = json_codec.encode(self._describe())
        return self._json

    def page(self) -> str:
        """Return the HTML page. The first call takes about 50 ms."""
        if self._page is None:
            self._page = page.render(self._describe())
        return self._page
