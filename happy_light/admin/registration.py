"""Who may make an account beside what the setting allows: a window of time, and single keys.

GET    /admin/api/registration          who may make an account now
PUT    /admin/api/registration          choose it in the place of the setting
POST   /admin/api/registration/window   let everybody make an account for some time
DELETE /admin/api/registration/window   close the window
POST   /admin/api/registration/keys     let the owner of one key make an account
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

from happy_light import clock
from happy_light.auth.fingerprints import parse_fingerprint
from happy_light.bus import RegistrationChanged
from happy_light.domains import auth
from happy_light.errors import ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

WINDOW_MAX: Final = 30 * 86_400  # s
WRONG_WINDOW: Final = ErrorResponse(400, f"A window is open for 1 second to {WINDOW_MAX // 86_400} days")
WRONG_KEY: Final = ErrorResponse(400, "This is no public key (32 bytes in hex or base64) and no fingerprint")


# -------------------------------------------------------------------------------------------- wire
class Mode(Incoming):
    """PUT /admin/api/registration: who may make an account; null for what the setting says."""

    mode: Literal["open", "first", "closed"] | None


class Window(Incoming):
    """POST /admin/api/registration/window: its length in s."""

    seconds: int


class Key(Incoming):
    """POST /admin/api/registration/keys: a public key (hex or base64) or its fingerprint."""

    key: str


class Registration(Outgoing):
    """Who may make an account. `open_until` is the end of the window in ms, null if none is open.

    `mode` is in force: what the operator has chosen, else the setting.
    """

    setting: str
    mode: str
    open_until: int | None
    allowed: list[str]
    """Fingerprints of the keys that may make an account."""
    accepts: bool
    """Whether any new key may make an account now."""


# -------------------------------------------------------------------------------------- operations
def registration(tx: ReadTransaction, setting: str) -> Registration:
    """Return who may make an account now."""
    now, until = clock.now_ms(), auth.registration_open_until(tx)
    allowed = [row[0] for row in tx.fetch_all("SELECT fingerprint FROM allowed_keys ORDER BY created_at")]
    mode, accepts = auth.registration_mode(tx) or setting, auth.registration_open(tx, now, setting)
    return Registration(setting, mode, until if until > now else None, allowed, accepts)


def set_mode(tx: Transaction, mode: str | None) -> None:
    """Choose who may make an account, in the place of the setting; None for what the setting says."""
    tx.execute("DELETE FROM meta WHERE key = 'registration_mode'")
    if mode is not None:
        tx.execute("INSERT INTO meta (key, value) VALUES ('registration_mode', ?)", (mode,))


def set_window(tx: Transaction, seconds: int) -> None:
    """Let everybody make an account for `seconds` from now; 0 closes the window."""
    tx.execute("DELETE FROM meta WHERE key = 'registration_until'")
    if seconds:
        until = str(tx.now + seconds * 1000)
        tx.execute("INSERT INTO meta (key, value) VALUES ('registration_until', ?)", (until,))


def allow_key(tx: Transaction, fingerprint: str) -> None:
    """Let the owner of that key make an account."""
    tx.execute(
        "INSERT INTO allowed_keys (fingerprint, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING", (fingerprint, tx.now)
    )


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[Any, None]) -> Registration:
    """Show who may make an account."""
    context = request.context
    return await context.database.read(registration, context.settings.registration)


async def put(request: Request[Mode, None]) -> Registration:
    """Choose who may make an account."""
    await request.context.database.write_for((), set_mode, request.body.mode)
    log.info("registration is %s", request.body.mode or f"{request.context.settings.registration}, as the setting says")
    return await _changed(request)


async def post_window(request: Request[Window, None]) -> Registration:
    """Open a window."""
    if not 0 < request.body.seconds <= WINDOW_MAX:
        raise ApiError(WRONG_WINDOW)
    await request.context.database.write_for((), set_window, request.body.seconds)
    log.info("registration is open for everybody for %d s", request.body.seconds)
    return await _changed(request)


async def delete_window(request: Request[None, None]) -> Registration:
    """Close the window."""
    await request.context.database.write_for((), set_window, 0)
    return await _changed(request)


async def post_key(request: Request[Key, None]) -> Registration:
    """Let one key in."""
    fingerprint = parse_fingerprint(request.body.key)
    if fingerprint is None:
        raise ApiError(WRONG_KEY)
    await request.context.database.write_for((), allow_key, fingerprint)
    log.info("key %s may create an account", fingerprint)
    return await _changed(request)


async def _changed(request: Request[Any, None]) -> Registration:
    request.context.bus.publish(RegistrationChanged())
    return await get(request)


_PATH = "/admin/api/registration"
routes = [
    Route("GET", _PATH, get, answer=Registration, public=True),
    Route("PUT", _PATH, put, body=Mode, answer=Registration, public=True),
    Route("POST", f"{_PATH}/window", post_window, body=Window, answer=Registration, errors=[WRONG_WINDOW], public=True),
    Route("DELETE", f"{_PATH}/window", delete_window, answer=Registration, public=True),
    Route("POST", f"{_PATH}/keys", post_key, body=Key, answer=Registration, errors=[WRONG_KEY], public=True),
]
