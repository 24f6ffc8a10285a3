"""LiveKit rooms and the tokens that admit to them."""

from __future__ import annotations

import time
from typing import Final

from happy_light import ids
from happy_light.config import Settings
from happy_light.errors import LIVEKIT_NOT_CONFIGURED, VOICE_SESSION_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

TOKEN_LIFETIME: Final = 3600  # s
SESSIONS_MAX: Final = 1_000  # voice sessions kept for one account; older ones are deleted


# -------------------------------------------------------------------------------------------- wire
class RoomBody(Incoming):
    """The body of POST /v1/voice/token: the room of a voice session; without one the account's own room is meant."""

    room: str | None = None


class RoomToken(Outgoing):
    """A LiveKit token, the URL of the LiveKit server, and the room."""

    token: str
    url: str
    room: str


class VoiceSession(Outgoing):
    """A new voice session, its room and a LiveKit token for it."""

    id: str
    room: str
    token: str
    url: str


# -------------------------------------------------------------------------------------- operations
def create_session(tx: Transaction, account_id: str) -> tuple[str, str]:
    """Create a voice session; return its id and the name of its room, which cannot be guessed."""
    id = ids.new_id()
    room = f"voice-{id}"
    tx.execute(
        "INSERT INTO voice_sessions (id, account_id, room, created_at) VALUES (?, ?, ?, ?)",
        (id, account_id, room, tx.now),
    )
    tx.execute(
        "DELETE FROM voice_sessions WHERE account_id = ? AND id NOT IN (SELECT id FROM voice_sessions "
        "WHERE account_id = ? ORDER BY created_at DESC, id DESC LIMIT ?)",
        (account_id, account_id, SESSIONS_MAX),
    )
    return id, room


def owns_room(tx: ReadTransaction, account_id: str, room: str) -> bool:
    """Whether the room is that of one of the account's voice sessions."""
    return (
        tx.fetch_one("SELECT 1 FROM voice_sessions WHERE account_id = ? AND room = ?", (account_id, room)) is not None
    )


def make_token(settings: Settings, account_id: str, room: str) -> RoomToken:
    """Return a LiveKit token that admits the account to the room for an hour.

    Raises ApiError LIVEKIT_NOT_CONFIGURED.
    """
    from happy_light.auth import web_token

    url, key, secret = _require_livekit(settings)
    now = int(time.time())
    claims = {
        "iss": key, "sub": account_id, "nbf": now, "exp": now + TOKEN_LIFETIME,
        "video": {"roomJoin": True, "room": room},
    }  # fmt: skip
    return RoomToken(web_token.encode_with_secret(claims, secret), url, room)


def _require_livekit(settings: Settings) -> tuple[str, str, str]:
    """Return URL, key and secret of LiveKit. Raises ApiError LIVEKIT_NOT_CONFIGURED."""
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise ApiError(LIVEKIT_NOT_CONFIGURED)
    return settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret


# --------------------------------------------------------------------------------------- endpoints
async def post_token(request: Request[RoomBody, None]) -> RoomToken:
    """Return a LiveKit token for the account's own room or the room of one of its voice sessions."""
    settings = request.context.settings
    _require_livekit(settings)
    raw, content_type = await request.read(), request.header(b"content-type")
    # Decoded here and not by the router: the body is optional.
    room = _TOKEN.decode_body(raw, content_type).room if raw or content_type else None
    if room is None:
        room = f"voice-{request.account_id}"
    elif not await request.context.database.read(owns_room, request.account_id, room):
        raise ApiError(VOICE_SESSION_NOT_FOUND)
    return make_token(settings, request.account_id, room)


async def post_session(request: Request[None, None]) -> VoiceSession:
    """Create a voice session with a room of its own and return a LiveKit token for it."""
    settings = request.context.settings
    _require_livekit(settings)
    id, room = await request.context.database.write(request.account_id, create_session)
    admission = make_token(settings, request.account_id, room)
    return VoiceSession(id, room, admission.token, admission.url)


_TOKEN = Route(
    "POST", "/v1/voice/token", post_token, body=RoomBody, answer=RoomToken, streams=True,
    errors=[LIVEKIT_NOT_CONFIGURED, VOICE_SESSION_NOT_FOUND],
)  # fmt: skip
routes = [
    _TOKEN,
    Route("POST", "/v1/voice/session", post_session, answer=VoiceSession, errors=[LIVEKIT_NOT_CONFIGURED]),
]
