"""Negative acks: what a socket event is answered when it fails (docs/protocol.md, section 14).

Each function takes the reason in words and returns the ack. A domain's table of events names the one that its
clients know.
"""

from __future__ import annotations


def ok_error(text: str) -> dict[str, object]:
    """Return `{"ok": false, "error": text}`: messages, presence, access keys, calls and unknown events."""
    return {"ok": False, "error": text}


def success_error(text: str) -> dict[str, object]:
    """Return `{"success": false, "error": text}`: usage reports."""
    return {"success": False, "error": text}


def result_error(text: str) -> dict[str, object]:
    """Return `{"result": "error", "message": text}`: machines and artifacts."""
    return {"result": "error", "message": text}


def result_error_silent(_: str) -> dict[str, object]:
    """Return `{"result": "error"}`: sessions, whose clients know no reason."""
    return {"result": "error"}
