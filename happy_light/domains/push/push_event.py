"""Push events: what an agent wants its user to know, on sockets and on phones."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated, Any, Final, Literal

import msgspec

from happy_light import json_codec
from happy_light.bus import Audience, Ephemeral
from happy_light.clock import now_ms
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.domains.push import sending, tokens
from happy_light.errors import SESSION_NOT_FOUND
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

MESSAGE_MAX: Final = 4096  # bytes of a message; Expo refuses larger ones


# -------------------------------------------------------------------------------------------- wire
class PushEvent(Incoming):
    """The body of POST /v1/sessions/:id/push-event; `data` is passed on to the app."""

    kind: Literal["done", "permission", "question"]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    body: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    data: dict[str, Any] | None = None


class PushResult(Outgoing):
    """The result of the push. `tokens`: phones it was sent to; `delivered`: those whose message Expo accepted."""

    result: Literal["sent", "partial", "suppressed", "no_tokens", "failed"]
    success: Literal[True] = True
    tokens: int | msgspec.UnsetType = msgspec.UNSET
    delivered: int | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


class SessionEvent(Outgoing, tag_field="type", tag="session-event"):
    """Sent to the session's and user-scoped sockets: an event of an agent; timestamp in ms."""

    session_id: str
    kind: str
    title: str
    body: str
    timestamp: int


# -------------------------------------------------------------------------------------- operations
async def push(context: ServerContext, account_id: str, session_id: str, event: PushEvent) -> PushResult:
    """Send the event to the account's phones unless an app is in the foreground; delete tokens that Expo rejects."""
    await context.clients.load(account_id)
    if context.clients.foreground(account_id):
        return PushResult("suppressed", reason="active-ui-client")
    receivers = [row.token for row in (await context.database.read(tokens.list_tokens, account_id)).tokens]
    if not receivers:
        return PushResult("no_tokens")
    if not context.settings.push_enabled:
        return PushResult("failed", reason="push-disabled")
    message = _message(session_id, event)
    if len(json_codec.encode(message)) > MESSAGE_MAX:
        return PushResult("failed", reason="too-large")
    outcomes = await sending.send(context, receivers, message)
    unregistered = [token for token, reason in outcomes.items() if reason == sending.DEVICE_NOT_REGISTERED]
    if unregistered:
        await context.database.write(account_id, tokens.delete_tokens, unregistered)
        log.info("deleted %d push tokens of account %s that Expo no longer knows", len(unregistered), account_id)
    failures = Counter(reason for reason in outcomes.values() if reason)
    if not failures:
        return PushResult("sent", tokens=len(receivers))
    reason, delivered = failures.most_common(1)[0][0], len(receivers) - failures.total()
    if delivered:
        return PushResult("partial", tokens=len(receivers), delivered=delivered, reason=reason)
    return PushResult("failed", reason=reason)


def _message(session_id: str, event: PushEvent) -> dict[str, Any]:
    """Return the message for the phones: without the event's `data` if it would be too large with it."""
    message: dict[str, Any] = {
        "title": event.title, "body": event.body, "data": {"sessionId": session_id, "kind": event.kind},
        "sound": "default", "channelId": "messages",
    }  # fmt: skip
    if event.data:
        whole = {**message, "data": {"sessionId": session_id, **event.data, "kind": event.kind}}
        if len(json_codec.encode(whole)) <= MESSAGE_MAX:
            return whole
        log.info("the data of a push of session %s is left out: the message would be too large", session_id)
    return message


# --------------------------------------------------------------------------------------- endpoints
async def post_event(request: Request[PushEvent, None]) -> PushResult:
    """Send an event to the session's and user-scoped sockets, and to phones if no app is in the foreground."""
    context, body, session_id = request.context, request.body, request.path["id"]
    await context.database.read(sessions.require_owned, request.account_id, session_id)
    event = SessionEvent(session_id, body.kind, body.title, body.body, now_ms())
    context.bus.publish(Ephemeral(Audience.session(request.account_id, session_id), event))
    result = await push(context, request.account_id, session_id, body)
    fields = ", ".join(f"{name} {value}" for name, value in msgspec.to_builtins(result).items() if name != "success")
    log.info("push of session %s of account %s: %s", session_id, request.account_id, fields)
    return result


routes = [
    Route(
        "POST", "/v1/sessions/:id/push-event", post_event, body=PushEvent, answer=PushResult,
        errors=[SESSION_NOT_FOUND],
    ),
]  # fmt: skip
