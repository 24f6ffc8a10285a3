"""Conversations with an ElevenLabs agent, within the limits of the settings."""

from __future__ import annotations

import asyncio
import base64
import hmac
from typing import Final, Literal

from happy_light.context import ServerContext
from happy_light.domains.voice.services import CONVERSATIONS_MAX, VoiceServices
from happy_light.errors import ELEVENLABS_NOT_CONFIGURED, VOICE_UNREACHABLE, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

DEADLINE: Final = 10.0  # s for all requests to services that one of ours makes

Reason = Literal["voice_hard_limit_reached", "subscription_required", "voice_conversation_limit_reached"]


# -------------------------------------------------------------------------------------------- wire
class NewConversation(Incoming):
    """The body of POST /v1/voice/conversations."""

    agent_id: str


class ConversationGranted(Outgoing):
    """A token for the conversation, its id, and how much of the limit is used."""

    conversation_token: str
    conversation_id: str
    agent_id: str
    eleven_user_id: str
    used_seconds: int
    limit_seconds: int
    allowed: Literal[True] = True


class ConversationDenied(Outgoing):
    """The limit that is reached."""

    reason: Reason
    used_seconds: int
    limit_seconds: int
    agent_id: str
    allowed: Literal[False] = False


class VoiceUsage(Outgoing):
    """The usage of the last 30 days and its limits."""

    used_seconds: int
    limit_seconds: int
    conversation_count: int
    conversation_limit: int
    eleven_user_id: str


# -------------------------------------------------------------------------------------- operations
def eleven_user_id(context: ServerContext, account_id: str) -> str:
    """Return the account's name at ElevenLabs: always the same, and it does not reveal the account."""
    digest = hmac.digest(context.keys.secret.encode(), account_id.encode(), "sha256")
    return "u_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def measure_usage(context: ServerContext, account_id: str) -> VoiceUsage:
    """Return the account's usage and its limits. Raises ApiError VOICE_UNREACHABLE."""
    settings, services = context.settings, _services(context)
    user_id = eleven_user_id(context, account_id)
    seconds, count = await services.fetch_usage(user_id)
    limit = settings.voice_max_seconds
    if settings.revenuecat_api_key and not await services.is_subscribed(account_id):
        limit = min(limit, settings.voice_free_seconds)
    return VoiceUsage(seconds, limit, count, CONVERSATIONS_MAX, user_id)


def reached_limit(usage: VoiceUsage, max_seconds: int) -> Reason | None:
    """Return why another conversation is denied, or None; `max_seconds` is the limit with a subscription."""
    if usage.used_seconds >= max_seconds:
        return "voice_hard_limit_reached"
    if usage.used_seconds >= usage.limit_seconds:
        return "subscription_required"
    if usage.conversation_count >= usage.conversation_limit:
        return "voice_conversation_limit_reached"
    return None


# --------------------------------------------------------------------------------------- endpoints
async def post_conversation(request: Request[NewConversation, None]) -> ConversationGranted | ConversationDenied:
    """Return a token for a conversation with an agent, or the limit that is reached."""
    context, agent_id = request.context, request.body.agent_id
    _require_elevenlabs(context)
    try:
        async with asyncio.timeout(DEADLINE):
            usage = await measure_usage(context, request.account_id)
            reason = reached_limit(usage, context.settings.voice_max_seconds)
            if reason is not None:
                return ConversationDenied(reason, usage.used_seconds, usage.limit_seconds, agent_id)
            token, conversation_id = await _services(context).fetch_token(usage.eleven_user_id, agent_id)
    except TimeoutError:
        raise ApiError(VOICE_UNREACHABLE) from None
    return ConversationGranted(
        token, conversation_id, agent_id, usage.eleven_user_id, usage.used_seconds, usage.limit_seconds
    )


async def get_usage(request: Request[None, None]) -> VoiceUsage:
    """Return the account's usage of the last 30 days and its limits."""
    _require_elevenlabs(request.context)
    try:
        async with asyncio.timeout(DEADLINE):
            return await measure_usage(request.context, request.account_id)
    except TimeoutError:
        raise ApiError(VOICE_UNREACHABLE) from None


def _require_elevenlabs(context: ServerContext) -> None:
    if not context.settings.elevenlabs_api_key:
        raise ApiError(ELEVENLABS_NOT_CONFIGURED)


def _services(context: ServerContext) -> VoiceServices:
    return VoiceServices(context.settings, context.http_client)


_ERRORS = [ELEVENLABS_NOT_CONFIGURED, VOICE_UNREACHABLE]
routes = [
    Route(
        "POST", "/v1/voice/conversations", post_conversation, body=NewConversation,
        answer=ConversationGranted | ConversationDenied, errors=_ERRORS,
    ),
    Route("GET", "/v1/voice/usage", get_usage, answer=VoiceUsage, errors=_ERRORS),
]  # fmt: skip
