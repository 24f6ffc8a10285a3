"""A bar on the web app that says why it cannot create an account: browsers offer cryptography only over HTTPS.

It is put into index.html when the page is requested over plain HTTP from another computer. It lies above the app at
the bottom of the window, has no effect on the app's own elements, and can be closed.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from happy_light.http import addresses

_STYLE: Final = (
    "position:fixed;left:0;right:0;bottom:0;z-index:2147483647;display:flex;gap:12px;align-items:flex-start;"
    "padding:12px 16px;background:#fbf1d9;color:#5a4310;border-top:1px solid #e6cf94;"
    "font:15px/1.45 system-ui,-apple-system,Segoe UI,Roboto,sans-serif"
)
_BUTTON: Final = (
    "font:inherit;padding:2px 10px;color:inherit;background:none;border:1px solid;border-radius:6px;cursor:pointer"
)
_TEXT: Final = (
    "This page came over plain HTTP. Browsers offer the cryptography that this app needs only over HTTPS or on "
    "localhost, so \\u201cCreate account\\u201d and signing in do nothing here. "
)
_ASK: Final = "Ask the operator of this server for its HTTPS address."
_SCRIPT: Final = """<script>(function () {
  if (window.isSecureContext) return;
  function show() {
    var bar = document.createElement("div"), text = document.createElement("span");
    var close = document.createElement("button");
    bar.id = "happy-insecure";
    bar.setAttribute("role", "alert");
    bar.style.cssText = "%(style)s";
    text.style.cssText = "flex:1;min-width:0";
    text.textContent = "%(text)s";
    close.textContent = "Close";
    close.style.cssText = "%(button)s";
    close.onclick = function () { bar.remove(); };
    bar.append(text, close);
    document.body.append(bar);
  }
  if (document.body) show(); else document.addEventListener("DOMContentLoaded", show);
})();</script>"""


def element(requested: str, public_url: str | None) -> bytes:
    """Return the script for a page that was requested as `requested` (scheme, host, port), b"" if it is not needed."""
    if urlsplit(requested).scheme == "https" or addresses.is_loopback_url(requested):
        return b""
    # PUBLIC_URL was parsed as a URL without quotes, backslashes and angle brackets.
    instead = f"Open {public_url} instead." if (public_url or "").startswith("https://") else _ASK
    return (_SCRIPT % {"style": _STYLE, "button": _BUTTON, "text": _TEXT + instead}).encode()
