"""Names of settings that somebody misspelt, with the nearest one that there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from happy_light.config.settings import SETTINGS

PREFIX: Final = "HAPPY_SERVER_LIGHT_"
_VARIABLES: Final = frozenset(name for row in SETTINGS for name in row.env)
_NAMES: Final = frozenset(row.name for row in SETTINGS)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the known name that is most like this one, "" if none is like it."""
    import difflib  # for those who misspell something

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that begins like one of this program's and is none of them."""
    names = sorted(name for name in environ if name.startswith(PREFIX) and name not in _VARIABLES)
    return [f"{name} is no setting and has no effect{nearest(name, _VARIABLES)}" for name in names]


def unknown_setting(names: Iterable[str]) -> str | None:
    """Return a sentence about the first of these names that is no setting; None if all are."""
    unknown = sorted(set(names) - _NAMES)
    return f"{unknown[0]} is no setting{nearest(unknown[0], _NAMES)}" if unknown else None
