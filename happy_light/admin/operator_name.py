"""Who uses the admin API through the unix socket: the user who runs a command, by its own statement."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Scope

OPERATOR: Final = b"x-happy-operator"
"""The header in which a command names the user who runs it, for the log."""

_NAME: Final = re.compile(rb"[\w.@+-]{1,64}")


def operator_of(scope: Scope) -> str:
    """Return the user that the request names, "unknown" if it names none that the log can show."""
    for name, value in scope["headers"]:
        if name == OPERATOR and _NAME.fullmatch(value):
            return str(value, "ascii")
    return "unknown"
