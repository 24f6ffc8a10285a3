"""Push notifications, sent to phones through Expo (protocol.md section 9).

GET    /v1/push-tokens                newest first
POST   /v1/push-tokens
DELETE /v1/push-tokens/:token
POST   /v1/sessions/:id/push-event    tell the session's clients, and phones if nobody looks
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from happy_light.bus import Audience, Ephemeral
from happy_light.clock import now_ms
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.errors import SESSION_NOT_FOUND
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.http_client import NoAnswer
from happy_light.ids import new_id
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

TOKENS_MAX: Final = 500  # of one account; the oldest go
BATCH: Final = 100  # messages that Expo takes at once
DEADLINE: Final = 8.0  # s for all batches together
DEAD: Final = "DeviceNotRegistered"


# -------------------------------------------------------------------------------------------- wire
class NewToken(Incoming):
    """POST /v1/push-tokens"""

    token: str


class Token(Outgoing):
    """A phone's address at Expo."""

    id: str
    token: str
    created_at: int
    updated_at: int


class Tokens(Outgoing):
    """`{"tokens": […]}`"""

    tokens: list[Token]


class PushEvent(Incoming):
    """POST /v1/sessions/:id/push-event"""

    kind: Literal["done", "permission", "question"]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    body: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    data: dict[str, Any] | None = None


class Pushed(Outgoing):
    """What became of the push. `tokens`: phones tried; `delivered`: how many of them Expo took."""

    result: Literal["sent", "partial", "suppressed", "no_tokens", "failed"]
    success: Literal[True] = True
    tokens: int | msgspec.UnsetType = msgspec.UNSET
    delivered: int | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


class SessionEvent(Outgoing, tag_field="type", tag="session-event"):
    """Ephemeral to everyone interested in the session; timestamp in ms."""

    session_id: str
    kind: str
    title: str
    body: str
    timestamp: int


class _Details(msgspec.Struct):
    error: str | None = None


class _Ticket(msgspec.Struct):
    """What Expo says about one message."""

    status: str
    details: _Details | None = None


class _Failure(msgspec.Struct):
    code: str = ""


class _Tickets(msgspec.Struct):
    """Expo's answer to a batch: a ticket for each message in its order, or why it took none."""

    data: list[_Ticket] = []
    errors: list[_Failure] = []


# -------------------------------------------------------------------------------------- operations
def tokens_of(tx: ReadTransaction, account_id: str) -> Tokens:
    """Every token, newest first."""
    rows = tx.fetch_all(
        "SELECT id, token, created_at, updated_at FROM push_tokens WHERE account_id = ? "
        "ORDER BY created_at DESC, id DESC",
        (account_id,),
    )
    return Tokens([Token(*row) for row in rows])


def add(tx: Transaction, account_id: str, token: str) -> Success:
    """Remembers a token; one that is known keeps its place."""
    tx.execute(
        "INSERT INTO push_tokens (id, account_id, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, token) DO UPDATE SET updated_at = excluded.updated_at",
        (new_id(), account_id, token, tx.now, tx.now),
    )
    tx.execute(
        "DELETE FROM push_tokens WHERE account_id = ? AND id NOT IN (SELECT id FROM push_tokens WHERE account_id = ? "
        "ORDER BY created_at DESC, id DESC LIMIT ?)",
        (account_id, account_id, TOKENS_MAX),
    )
    return Success()


def remove(tx: Transaction, account_id: str, tokens: Sequence[str]) -> Success:
    """Forgets tokens, known or not."""
    tx.executemany(
        "DELETE FROM push_tokens WHERE account_id = ? AND token = ?", [(account_id, token) for token in tokens]
    )
    return Success()


async def push(context: ServerContext, account_id: str, session_id: str, event: PushEvent) -> Pushed:
    """Sends the event to the account's phones, unless somebody looks."""
    if context.clients.foreground(account_id):
        return Pushed("suppressed", reason="active-ui-client")
    tokens = [token.token for token in (await context.database.read(tokens_of, account_id)).tokens]
    if not tokens:
        return Pushed("no_tokens")
    if not context.settings.push_enabled:
        return Pushed("failed", reason="push-disabled")
    data = {"sessionId": session_id, **(event.data or {}), "kind": event.kind}
    message = {"title": event.title, "body": event.body, "data": data, "sound": "default", "channelId": "messages"}
    outcomes = await _send(context, tokens, message)
    dead = [token for token, reason in outcomes.items() if reason == DEAD]
    if dead:
        await context.database.write(account_id, remove, dead)
        log.info("%d phones of account %s are gone at Expo and forgotten", len(dead), account_id)
    reasons = Counter(reason for reason in outcomes.values() if reason)
    if not reasons:
        return Pushed("sent", tokens=len(tokens))
    reason, delivered = reasons.most_common(1)[0][0], len(tokens) - reasons.total()
    if delivered:
        return Pushed("partial", tokens=len(tokens), delivered=delivered, reason=reason)
    return Pushed("failed", reason=reason)


async def _send(context: ServerContext, tokens: list[str], message: dict[str, Any]) -> dict[str, str]:
    """-> for each token "", or why its message was not taken."""
    outcomes = dict.fromkeys(tokens, "timeout")

    async def send(batch: list[str]) -> None:
        outcomes.update(zip(batch, await _send_batch(context, batch, message), strict=True))

    try:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            for start in range(0, len(tokens), BATCH):
                group.create_task(send(tokens[start : start + BATCH]))
    except TimeoutError:
        pass  # who was not answered keeps this reason
    return outcomes


async def _send_batch(context: ServerContext, batch: list[str], message: dict[str, Any]) -> list[str]:
    """As `_send`, in the order of the batch."""
    secret = context.settings.expo_access_token
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    body = [{"to": token, **message} for token in batch]
    try:
        answer = await context.http_client.request("POST", context.settings.expo_url, body=body, headers=headers)
        if answer.status != 200:
            log.warning("Expo answered a push with status %d", answer.status)
            return [f"expo-status-{answer.status}"] * len(batch)
        tickets = answer.json(_Tickets)
    except NoAnswer as error:
        log.warning("Expo gave no answer to a push: %s", error)
        return [f"expo-{error}"] * len(batch)
    if tickets.errors:
        return [tickets.errors[0].code[:100] or "expo-error"] * len(batch)
    reasons = [_reason(ticket) for ticket in tickets.data[: len(batch)]]
    return reasons + ["no-ticket"] * (len(batch) - len(reasons))


def _reason(ticket: _Ticket) -> str:
    if ticket.status == "ok":
        return ""
    return (ticket.details.error if ticket.details else None) or "expo-error"


# --------------------------------------------------------------------------------------- endpoints
async def get_tokens(request: Request[None, None]) -> Tokens:
    return await request.context.database.read(tokens_of, request.account_id)


async def post_token(request: Request[NewToken, None]) -> Success:
    return await request.context.database.write(request.account_id, add, request.body.token)


async def delete_token(request: Request[None, None]) -> Success:
    return await request.context.database.write(request.account_id, remove, [request.path["token"]])


async def post_event(request: Request[PushEvent, None]) -> Pushed:
    context, body, session_id = request.context, request.body, request.path["id"]
    await context.database.read(sessions.owned, request.account_id, session_id)
    event = SessionEvent(session_id, body.kind, body.title, body.body, now_ms())
    context.bus.publish(Ephemeral(Audience.session(request.account_id, session_id), event))
    pushed = await push(context, request.account_id, session_id, body)
    log.info(
        "push of session %s of account %s: %s",
        session_id, request.account_id, ", ".join(f"{name} {value}" for name, value in _said(pushed).items()),
    )  # fmt: skip
    return pushed


def _said(pushed: Pushed) -> dict[str, Any]:
    """What the answer says, without what it always says."""
    said: dict[str, Any] = msgspec.to_builtins(pushed)
    del said["success"]
    return said


routes = [
    Route("GET", "/v1/push-tokens", get_tokens, answer=Tokens),
    Route("POST", "/v1/push-tokens", post_token, body=NewToken),
    Route("DELETE", "/v1/push-tokens/:token", delete_token),
    Route("POST", "/v1/sessions/:id/push-event", post_event, body=PushEvent, answer=Pushed, errors=[SESSION_NOT_FOUND]),
]
