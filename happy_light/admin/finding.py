"""What a check of `doctor` found."""

from __future__ import annotations

from typing import Literal

from happy_light.wire import Outgoing


class Finding(Outgoing):
    """The result of one check, and what to do about it ("" if nothing)."""

    name: str
    level: Literal["ok", "warning", "problem"]
    text: str
    cure: str = ""
