"""The two documents that describe the server, made at the first request and kept."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from happy_light import compression, json_codec
from happy_light.domains.docs import page


class Document:
    """A text that does not change while the server runs, with its compressed forms."""

    def __init__(self, content: bytes) -> None:
        self.forms = {"": content, "gzip": compression.compress("gzip", content)}
        """The text as it is and compressed, by coding."""
        self._hash = hashlib.sha256(content).hexdigest()[:32]

    def etag(self, coding: str) -> str:
        """Return the ETag of one form."""
        return f'"{self._hash}{coding and "-" + coding}"'


class Documents:
    """The OpenAPI document and the HTML page. `describe` returns the former."""

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        self._describe = describe

    @functools.cached_property
    def json(self) -> Document:
        """The OpenAPI document. Making it takes about 50 ms."""
        return Document(json_codec.encode(self._describe()))

    @functools.cached_property
    def page(self) -> Document:
        """The HTML page. Making it takes about 50 ms."""
        return Document(page.render(self._describe()).encode())
