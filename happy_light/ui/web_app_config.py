"""Where the web app is and what its pages are told, as the settings say."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from happy_light import json_codec
from happy_light.config import Settings

log = logging.getLogger(__name__)

INDEX: Final = "index.html"


class WebApp:
    """The configured web app. `folder` is None without one, `prefix` is the path that it is served below ("" for /)."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.ui_dir
        self.prefix = "" if settings.ui_prefix == "/" else settings.ui_prefix
        self.script = _script(settings)
        # os.path says no where Path raises: for a folder that may not be looked into.
        if self.folder is not None and not os.path.isfile(self.folder / INDEX):  # noqa: PTH113
            log.warning("the web app's folder %s has no %s; it answers as soon as there is one", self.folder, INDEX)

    @property
    def at_root(self) -> bool:
        """Whether GET / is the web app."""
        return self.folder is not None and not self.prefix


def _script(settings: Settings) -> bytes:
    """The element that tells the app which server it belongs to."""
    config: dict[str, Any] = {
        "serverUrl": settings.public_url,
        "disableAnalytics": True,
        **(settings.inject_html_config or {}),
    }
    members = []
    for name, value in config.items():
        # The app joins texts: it needs an absolute origin without a slash at its end, which the page knows.
        unknown = name == "serverUrl" and value is None
        members.append(json_codec.encode(name) + b":" + (b"location.origin" if unknown else json_codec.encode(value)))
    text = b"{" + b",".join(members) + b"}"
    for character, escaped in ((b"<", b"\\u003c"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029")):
        text = text.replace(character, escaped)
    return b"<script>window.__HAPPY_CONFIG__ = " + text + b";</script>"
