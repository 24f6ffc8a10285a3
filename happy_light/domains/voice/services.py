"""Requests to ElevenLabs and RevenueCat."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from happy_light.config import Settings
from happy_light.errors import VOICE_UNREACHABLE, ApiError
from happy_light.http_client import HttpClient, NoAnswer

log = logging.getLogger(__name__)

T = TypeVar("T")

PERIOD: Final = 30 * 86_400  # s for which a conversation counts as usage
CONVERSATIONS_MAX: Final = 100  # in PERIOD; one page of ElevenLabs' list holds as many, so one request is enough
ANSWER_MAX: Final = 4 * 1024 * 1024  # bytes of an answer that are read


class _Conversation(msgspec.Struct):
    call_duration_secs: float | None = 0


class _Conversations(msgspec.Struct):
    conversations: list[_Conversation]


class _ConversationToken(msgspec.Struct):
    token: str


class _VideoClaim(msgspec.Struct):
    room: str


class _TokenClaims(msgspec.Struct):
    video: _VideoClaim


class _Entitlement(msgspec.Struct):
    expires_date: datetime | None = None


class _Subscriber(msgspec.Struct):
    entitlements: dict[str, _Entitlement] = {}


class _SubscriberResponse(msgspec.Struct):
    subscriber: _Subscriber


class VoiceServices:
    """The requests to ElevenLabs and RevenueCat. Every method raises ApiError VOICE_UNREACHABLE."""

    def __init__(self, settings: Settings, http_client: HttpClient) -> None:
        self._settings = settings
        self._http_client = http_client

    async def fetch_usage(self, user_id: str) -> tuple[int, int]:
        """Return total duration (s) and number of an ElevenLabs user's conversations in the last 30 days."""
        query: dict[str, str | int] = {
            "user_id": user_id,
            "created_after": int(time.time()) - PERIOD,
            "page_size": CONVERSATIONS_MAX,
        }
        answer = await self._get_elevenlabs("/v1/convai/conversations", query, _Conversations)
        durations = [each.call_duration_secs or 0 for each in answer.conversations]
        return int(sum(durations)), len(durations)

    async def fetch_token(self, user_id: str, agent_id: str) -> tuple[str, str]:
        """Return a token for a conversation of an ElevenLabs user with an agent, and the conversation's id."""
        query = {"agent_id": agent_id, "participant_name": user_id}
        token = (await self._get_elevenlabs("/v1/convai/conversation/token", query, _ConversationToken)).token
        conversation_id = _conversation_id(token)
        if conversation_id is None:
            log.warning("a conversation token of ElevenLabs names no conversation")
            raise ApiError(VOICE_UNREACHABLE)
        return token, conversation_id

    async def is_subscribed(self, account_id: str) -> bool:
        """Whether RevenueCat knows an entitlement of the account that has not expired."""
        url = f"{self._settings.revenuecat_url}/v1/subscribers/{account_id}"
        headers = {"authorization": f"Bearer {self._settings.revenuecat_api_key}"}
        entitlements = (await self._get(url, {}, headers, _SubscriberResponse)).subscriber.entitlements
        now = datetime.now(UTC)
        return any(each.expires_date is None or each.expires_date > now for each in entitlements.values())

    async def _get_elevenlabs(self, path: str, query: Mapping[str, str | int], kind: type[T]) -> T:
        key = self._settings.elevenlabs_api_key
        assert key is not None  # endpoints check it first
        return await self._get(self._settings.elevenlabs_url + path, query, {"xi-api-key": key}, kind)

    async def _get(self, url: str, query: Mapping[str, str | int], headers: Mapping[str, str], kind: type[T]) -> T:
        """Return the answer of a service. A failure is logged, because the client cannot act on its reason."""
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
    """Return the `conv_…` in a token's claim `video.room`, without verifying the signature: LiveKit does that."""
    part = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=_TokenClaims)
    except (ValueError, msgspec.DecodeError):
        return None
    found = re.search(r"conv_[A-Za-z0-9]+", claims.video.room)
    return None if found is None else found[0]
