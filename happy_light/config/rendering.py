"""Settings as text, for people."""

from __future__ import annotations

import json
from typing import Any

from happy_light.config import setting_types
from happy_light.config.settings import SETTINGS, Row, Settings
from happy_light.wire import Outgoing


class Entry(Outgoing):
    """A setting: its first environment variable, its value as text (null: unset), and where that came from."""

    name: str
    env: str
    group: str
    value: str | None
    origin: str


def entries(settings: Settings) -> list[Entry]:
    """Return every setting as it is in force, secrets masked."""
    found = []
    for row in SETTINGS:
        value = getattr(settings, row.name)
        text = None if value is None else display(row, value)
        found.append(Entry(row.name, row.env[0], row.group, text, settings.origins[row.name]))
    return found


def display(row: Row, value: Any) -> str:
    """Return a value as text: secrets are masked, an unset one is described as in the documentation."""
    if value is None:
        return row.shown
    if row.secret:
        return "********"
    if row.parse is setting_types.duration:
        return setting_types.duration_text(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool | dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown_table() -> str:
    """Return the table of all settings for the documentation."""
    lines = []
    for group in dict.fromkeys(row.group for row in SETTINGS):
        lines += [f"**{group}**", "", "| variable | default | meaning |", "|---|---|---|"]
        for row in SETTINGS:
            if row.group == group:
                older = f" (also `{'`, `'.join(row.env[1:])}`)" if row.env[1:] else ""
                default = f"`{row.shown}`" if row.default or row.shown.startswith("<") else row.shown
                secret = " (secret)" if row.secret else ""
                lines.append(f"| `{row.env[0]}`{older} | {default} | {row.help}{secret} |")
        lines.append("")
    return "\n".join(lines)
