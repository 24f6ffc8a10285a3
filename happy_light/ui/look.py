"""What all pages of the server have in common: colours, type, icon, name, and a content security policy."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from pathlib import Path
from typing import Final

ICON: Final = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='9' fill='#2f6b54'/>"
    "<path d='M9 17.5a7 7 0 0 0 14 0' fill='none' stroke='#fff' stroke-width='3' stroke-linecap='round'/></svg>"
)
"""The favicon, as SVG."""
_NAME: Final = (
    '<p class="name"><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9" '
    'fill="currentColor"/><path d="M9 17.5a7 7 0 0 0 14 0" fill="none" stroke="var(--paper)" stroke-width="3" '
    'stroke-linecap="round"/></svg>happy-server-light</p>'
)


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """Return a whole HTML page.

    `body` is HTML that begins below the server's name; `style` and `script` are what the page has beside the common.
    """
    icon = ICON.replace("<", "%3C").replace(">", "%3E").replace("#", "%23")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="robots" content="noindex">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:image/svg+xml,{icon}">\n'
        f"<style>{common() + style}</style>\n</head>\n<body>\n<main>\n{_NAME}\n{body}\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def headers(style: str = "", script: str = "") -> dict[str, str]:
    """Return the headers of such a page: nothing but its own style and script may load or run."""
    policy = f"default-src 'none'; style-src {_digest(common() + style)}; img-src data:; "
    if script:
        policy += f"script-src {_digest(script)}; connect-src 'self'; "
    return {
        "content-security-policy": policy + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }


@functools.cache
def common() -> str:
    """Return the style sheet of all pages."""
    return read("look.css")


def read(name: str) -> str:
    """Return a text file of this package."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
