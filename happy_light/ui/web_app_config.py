"""The configured web app: its folder, its path and the configuration in its pages (docs/web-app.md)."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from happy_light import json_codec
from happy_light.config import Settings
from happy_light.ui.compressed_files import CompressedFiles

log = logging.getLogger(__name__)

INDEX: Final = "index.html"


class WebApp:
    """The configured web app: `folder` is None without one, `prefix` is the path it is served below ("" for /)."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.ui_dir
        self.prefix = "" if settings.ui_prefix == "/" else settings.ui_prefix
        self.script = _script(settings)
        self.compressed = CompressedFiles(self.folder, settings.data_dir / "web-app-cache") if self.folder else None
        """Compressed copies of the folder's files."""
        # os.path.isfile and not Path.is_file, which raises for a folder without permission.
        if self.folder is not None and not os.path.isfile(self.folder / INDEX):  # noqa: PTH113
            log.warning("the web app's folder %s has no %s; add it, no restart is needed", self.folder, INDEX)

    @property
    def at_root(self) -> bool:
        """Whether GET / returns the web app."""
        return self.folder is not None and not self.prefix


def _script(settings: Settings) -> bytes:
    """Return the script element with the configuration of the app."""
    config: dict[str, Any] = {
        "serverUrl": settings.public_url,
        "disableAnalytics": True,
        **(settings.inject_html_config or {}),
    }
    members = []
    for name, value in config.items():
        # The app concatenates URLs: it needs an absolute origin without a trailing slash, which the page knows.
        encoded = b"location.origin" if name == "serverUrl" and value is None else json_codec.encode(value)
        members.append(json_codec.encode(name) + b":" + encoded)
    text = b"{" + b",".join(members) + b"}"
    for character, escaped in ((b"<", b"\\u003c"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029")):
        text = text.replace(character, escaped)
    return b"<script>window.__HAPPY_CONFIG__ = " + text + b";</script>"
