"""Voice: conversations with an ElevenLabs agent, and LiveKit rooms (protocol.md sections 12 and 13).

POST /v1/voice/conversations   a token for a conversation, within the limits
GET  /v1/voice/usage           what of the limits is used
POST /v1/voice/token           a LiveKit token for a room of the account
POST /v1/voice/session         a new room, remembered, and its token

Both services are the operator's own: without their keys in the settings these routes say so.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from happy_light import ids
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.errors import (
    ELEVENLABS_NOT_CONFIGURED,
    LIVEKIT_NOT_CONFIGURED,
    VOICE_SESSION_NOT_FOUND,
    VOICE_UNREACHABLE,
    ApiError,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.http_client import HttpClient, NoAnswer
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

PERIOD: Final = 30 * 86_400  # s that usage counts
CONVERSATIONS_MAX: Final = 100  # in PERIOD; also what one page of ElevenLabs' list holds, so one page tells all
DEADLINE: Final = 10.0  # s for everything that one request asks of the services
ANSWER_MAX: Final = 4 * 1024 * 1024  # bytes of one of their answers
TOKEN_LIFETIME: Final = 3600  # s in which a LiveKit token lets in
SESSIONS_MAX: Final = 1_000  # remembered for one account; older ones are forgotten


# -------------------------------------------------------------------------------------------- wire
class Conversation(Incoming):
    """POST /v1/voice/conversations"""

    agent_id: str


class Granted(Outgoing):
    """A conversation may begin."""

    conversation_token: str
    conversation_id: str
    agent_id: str
    eleven_user_id: str
    used_seconds: int
    limit_seconds: int
    allowed: Literal[True] = True


class Denied(Outgoing):
    """A limit is reached."""

    reason: Literal["voice_hard_limit_reached", "subscription_required", "voice_conversation_limit_reached"]
    used_seconds: int
    limit_seconds: int
    agent_id: str
    allowed: Literal[False] = False


class Usage(Outgoing):
    """GET /v1/voice/usage: of the last 30 days."""

    used_seconds: int
    limit_seconds: int
    conversation_count: int
    conversation_limit: int
    eleven_user_id: str


class Room(Incoming):
    """POST /v1/voice/token: without a room it is the account's own, else that of one of its voice sessions."""

    room: str | None = None


class Admission(Outgoing):
    """What lets into a LiveKit room."""

    token: str
    url: str
    room: str


class Session(Outgoing):
    """A new voice session and what lets into its room."""

    id: str
    room: str
    token: str
    url: str


# ------------------------------------------------------------------------------ what services answer
class _Call(msgspec.Struct):
    call_duration_secs: float | None = 0


class _Calls(msgspec.Struct):
    conversations: list[_Call]


class _Token(msgspec.Struct):
    token: str


class _Video(msgspec.Struct):
    room: str


class _Claims(msgspec.Struct):
    video: _Video


class _Entitlement(msgspec.Struct):
    expires_date: datetime | None = None


class _Subscriber(msgspec.Struct):
    entitlements: dict[str, _Entitlement] = {}


class _Subscribed(msgspec.Struct):
    subscriber: _Subscriber


class Services:
    """The requests to ElevenLabs and RevenueCat."""

    def __init__(self, settings: Settings, http_client: HttpClient) -> None:
        self._settings = settings
        self._http_client = http_client

    async def used(self, user_id: str) -> tuple[int, int]:
        """-> seconds and number of a user's conversations in the last 30 days. Raises Refused."""
        query = {"user_id": user_id, "created_after": int(time.time()) - PERIOD, "page_size": CONVERSATIONS_MAX}
        calls = (await self._ask_elevenlabs("/v1/convai/conversations", query, _Calls)).conversations
        return int(sum(each.call_duration_secs or 0 for each in calls)), len(calls)

    async def token(self, user_id: str, agent_id: str) -> tuple[str, str]:
        """-> a token for a conversation, and its id. Raises Refused."""
        query = {"agent_id": agent_id, "participant_name": user_id}
        token = (await self._ask_elevenlabs("/v1/convai/conversation/token", query, _Token)).token
        conversation_id = _conversation_id(token)
        if conversation_id is None:
            log.warning("a conversation token of ElevenLabs names no conversation")
            raise ApiError(VOICE_UNREACHABLE)
        return token, conversation_id

    async def subscribes(self, account_id: str) -> bool:
        """Whether RevenueCat knows something that the account paid for and that did not expire. Raises Refused."""
        url = f"{self._settings.revenuecat_url}/v1/subscribers/{account_id}"
        headers = {"authorization": f"Bearer {self._settings.revenuecat_api_key}"}
        entitlements = (await self._ask(url, {}, headers, _Subscribed)).subscriber.entitlements
        now = datetime.now(UTC)
        return any(each.expires_date is None or each.expires_date > now for each in entitlements.values())

    async def _ask_elevenlabs(self, path: str, query: dict[str, Any], kind: type[Any]) -> Any:
        key = self._settings.elevenlabs_api_key
        assert key is not None  # every endpoint looks first
        return await self._ask(self._settings.elevenlabs_url + path, query, {"xi-api-key": key}, kind)

    async def _ask(self, url: str, query: dict[str, Any], headers: dict[str, str], kind: type[Any]) -> Any:
        """A service's answer as `kind`; that it fails is told, since the client can do nothing about it."""
        try:
            answer = await self._http_client.request("GET", url, query=query, headers=headers, limit=ANSWER_MAX)
            if answer.status == 200:
                return answer.json(kind)
            reason = f"status {answer.status}"
        except NoAnswer as error:
            reason = str(error)
        log.warning("%s: %s", url, reason)
        raise ApiError(VOICE_UNREACHABLE)


def _conversation_id(token: str) -> str | None:
    """The `conv_…` in a token's `video.room`. Its signature is for LiveKit to check, not for us."""
    part = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=_Claims)
    except (ValueError, msgspec.DecodeError):
        return None
    found = re.search(r"conv_[A-Za-z0-9]+", claims.video.room)
    return None if found is None else found[0]


# -------------------------------------------------------------------------------------- operations
def eleven_user_id(context: ServerContext, account_id: str) -> str:
    """How ElevenLabs knows an account: always the same, and nobody can tell the account from it."""
    digest = hmac.digest(context.keys.secret.encode(), account_id.encode(), "sha256")
    return "u_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def remember(tx: Transaction, account_id: str) -> tuple[str, str]:
    """A new voice session. -> its id and its room, which nobody can guess."""
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


def owns(tx: ReadTransaction, account_id: str, room: str) -> bool:
    """Whether a room is that of one of the account's voice sessions."""
    return (
        tx.fetch_one("SELECT 1 FROM voice_sessions WHERE account_id = ? AND room = ?", (account_id, room)) is not None
    )


def admission(context: ServerContext, account_id: str, room: str) -> Admission:
    """A LiveKit token for a room. Raises Refused."""
    import jwt

    url, key, secret = _livekit(context)
    now = int(time.time())
    claims = {
        "iss": key, "sub": account_id, "nbf": now, "exp": now + TOKEN_LIFETIME,
        "video": {"roomJoin": True, "room": room},
    }  # fmt: skip
    return Admission(jwt.encode(claims, secret, algorithm="HS256"), url, room)


def _livekit(context: ServerContext) -> tuple[str, str, str]:
    settings = context.settings
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise ApiError(LIVEKIT_NOT_CONFIGURED)
    return settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret


# --------------------------------------------------------------------------------------- endpoints
async def _measure(context: ServerContext, account_id: str) -> Usage:
    """What the account used, and the limit that holds for it. Raises Refused."""
    settings, services = context.settings, Services(context.settings, context.http_client)
    user_id = eleven_user_id(context, account_id)
    seconds, count = await services.used(user_id)
    limit = settings.voice_max_seconds
    if settings.revenuecat_api_key and not await services.subscribes(account_id):
        limit = min(limit, settings.voice_free_seconds)
    return Usage(seconds, limit, count, CONVERSATIONS_MAX, user_id)


def _refusal(context: ServerContext, usage: Usage) -> Any:
    if usage.used_seconds >= context.settings.voice_max_seconds:
        return "voice_hard_limit_reached"
    if usage.used_seconds >= usage.limit_seconds:
        return "subscription_required"
    if usage.conversation_count >= usage.conversation_limit:
        return "voice_conversation_limit_reached"
    return None


async def post_conversation(request: Request[Conversation, None]) -> Granted | Denied:
    _need_elevenlabs(request.context)
    agent_id = request.body.agent_id
    try:
        async with asyncio.timeout(DEADLINE):
            usage = await _measure(request.context, request.account_id)
            reason = _refusal(request.context, usage)
            if reason is not None:
                return Denied(reason, usage.used_seconds, usage.limit_seconds, agent_id)
            services = Services(request.context.settings, request.context.http_client)
            token, conversation_id = await services.token(usage.eleven_user_id, agent_id)
    except TimeoutError:
        raise ApiError(VOICE_UNREACHABLE) from None
    user_id = usage.eleven_user_id
    return Granted(token, conversation_id, agent_id, user_id, usage.used_seconds, usage.limit_seconds)


async def get_usage(request: Request[None, None]) -> Usage:
    _need_elevenlabs(request.context)
    try:
        async with asyncio.timeout(DEADLINE):
            return await _measure(request.context, request.account_id)
    except TimeoutError:
        raise ApiError(VOICE_UNREACHABLE) from None


def _need_elevenlabs(context: ServerContext) -> None:
    if not context.settings.elevenlabs_api_key:
        raise ApiError(ELEVENLABS_NOT_CONFIGURED)


async def post_token(request: Request[Room, None]) -> Admission:
    _livekit(request.context)
    raw, kind = await request.read(), request.header(b"content-type")
    room = _TOKEN.decode_body(raw, kind).room if raw or kind else None  # a body is welcome, not needed
    if room is None:
        room = f"voice-{request.account_id}"
    elif not await request.context.database.read(owns, request.account_id, room):
        raise ApiError(VOICE_SESSION_NOT_FOUND)
    return admission(request.context, request.account_id, room)


async def post_session(request: Request[None, None]) -> Session:
    _livekit(request.context)
    id, room = await request.context.database.write(request.account_id, remember)
    let_in = admission(request.context, request.account_id, room)
    return Session(id, room, let_in.token, let_in.url)


_ELEVENLABS = [ELEVENLABS_NOT_CONFIGURED, VOICE_UNREACHABLE]
_TOKEN = Route(
    "POST", "/v1/voice/token", post_token, body=Room, answer=Admission, streams=True,
    errors=[LIVEKIT_NOT_CONFIGURED, VOICE_SESSION_NOT_FOUND],
)  # fmt: skip

routes = [
    Route(
        "POST", "/v1/voice/conversations", post_conversation, body=Conversation, answer=Granted | Denied,
        errors=_ELEVENLABS,
    ),
    Route("GET", "/v1/voice/usage", get_usage, answer=Usage, errors=_ELEVENLABS),
    _TOKEN,
    Route("POST", "/v1/voice/session", post_session, answer=Session, errors=[LIVEKIT_NOT_CONFIGURED]),
]  # fmt: skip
