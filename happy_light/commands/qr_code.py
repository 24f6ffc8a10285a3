"""QR codes on a terminal."""

from __future__ import annotations

import io


def lines(text: str, colour: bool) -> list[str]:
    """Return the lines of the QR code of `text`, two rows of modules a line.

    With `colour` it is white and black on any terminal; without it a terminal with dark letters shows it inverted,
    which most cameras read.
    """
    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=drawn, compact=True, border=2)
    rows = drawn.getvalue().rstrip("\n").split("\n")
    return [f"\033[97;40m{row}\033[0m" for row in rows] if colour else rows
