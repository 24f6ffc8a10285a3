"""What is wrong with the folder of a web app, as far as its index.html shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from happy_light.config import Settings
from happy_light.ui.web_app_config import INDEX

_READ_MAX: Final = 1024 * 1024  # bytes of index.html that are looked at
_LINKS: Final = re.compile(
    r"""<(?:script|link)\b[^>]*?\b(?:src|href)\s*=\s*["']?(/[^/"'\s>][^"'\s>]*)""", re.IGNORECASE
)


def is_there(settings: Settings) -> bool:
    """Whether the settings name a folder with an index.html that can be read."""
    return _index(settings.ui_dir) is not None


def problems(settings: Settings) -> list[str]:
    """Return sentences about a web app that will not work as the settings have it."""
    if settings.ui_dir is None:
        return []
    page = _index(settings.ui_dir)
    if page is None:
        return [f"no web app: {settings.ui_dir} has no {INDEX} that can be read"]
    prefix = settings.ui_prefix.rstrip("/")
    links = _LINKS.findall(page)
    if prefix and links and not any(link.startswith(f"{prefix}/") for link in links):
        return [
            f"the web app is mounted at {prefix}, but its {INDEX} links {links[0]}: it was built for /. Build it with "
            f"the base URL {prefix}, or set HAPPY_SERVER_UI_PREFIX=/"
        ]
    return []


def _index(folder: Path | None) -> str | None:
    """Return the text of index.html, None if there is none that can be read."""
    if folder is None:
        return None
    try:
        with (folder / INDEX).open("rb") as file:
            return file.read(_READ_MAX).decode("utf-8", "replace")
    except OSError:
        return None
