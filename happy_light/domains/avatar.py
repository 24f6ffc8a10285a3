"""The active picture of a session or project, as it is shown with its owner (docs/protocol.md, section 19)."""

from __future__ import annotations

from typing import Final

from happy_light.wire import Outgoing

AVATAR_COLUMNS: Final = "avatar_ref, avatar_preview, avatar_version"
"""The columns of sessions and projects that hold it."""


class Avatar(Outgoing):
    """The active picture: where its file is, its encrypted preview, and the version of the owner's picture."""

    ref: str
    preview: str
    version: int


def avatar_of(ref: str | None, preview: str | None, version: int) -> Avatar | None:
    """Return the picture in the columns AVATAR_COLUMNS, None if there is none."""
    return None if ref is None or preview is None else Avatar(ref, preview, version)
