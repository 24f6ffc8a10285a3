"""Content types by the extension of a file's name, the same on every computer and for every version of Python."""

from __future__ import annotations

import functools
import mimetypes
from typing import Final

OTHER: Final = "application/octet-stream"

# Types that `mimetypes` does not know, or names otherwise, in one of the versions of Python that are supported.
_EXTENSIONS: Final = {
    "text/javascript": (".js", ".mjs", ".cjs"),
    "text/markdown": (".md",),
    "application/json": (".map",),
    "application/xml": (".xml",),
    "image/webp": (".webp",),
    "image/x-icon": (".ico",),
    "font/ttf": (".ttf",),
    "font/otf": (".otf",),
    "font/woff": (".woff",),
    "font/woff2": (".woff2",),
    "application/vnd.ms-fontobject": (".eot",),
    "audio/mp4": (".m4a",),
    "audio/wav": (".wav",),
    "audio/ogg": (".ogg", ".opus"),
    "audio/flac": (".flac",),
    "video/mp4": (".m4v",),
}
_NAMES: Final = {"apple-app-site-association": "application/json"}
"""Files without an extension whose type is prescribed."""


@functools.cache
def _table() -> mimetypes.MimeTypes:
    """Return the types that come with Python and ours; the files of the system are not read."""
    table = mimetypes.MimeTypes(filenames=())
    for content_type, extensions in _EXTENSIONS.items():
        for extension in extensions:
            table.add_type(content_type, extension)
    return table


def content_type(name: str) -> str:
    """Return the content type of a file of this name."""
    found = _NAMES.get(name) or _table().types_map[True].get(f".{name.rpartition('.')[2].lower()}", OTHER)
    return f"{found}; charset=utf-8" if found.startswith("text/") else found
