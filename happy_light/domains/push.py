"""Push notifications (protocol.md section 9).

POST /v1/sessions/:id/push-event
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from happy_light.bus import Audience, Ephemeral
from happy_light.domains import sessions
from happy_light.errors import SESSION_NOT_FOUND
from happy_light.house import House
from happy_light.web import Call, Route
from happy_light.wire import In, Out, now_ms


# -------------------------------------------------------------------------------------------- wire
class PushEvent(In):
    """POST /v1/sessions/:id/push-event"""

    kind: Literal["done", "permission", "question"]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    body: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    data: dict[str, Any] | None = None


class Pushed(Out):
    """What became of the push."""

    result: Literal["sent", "partial", "suppressed", "no_tokens", "failed"]
    success: Literal[True] = True
    tokens: int | msgspec.UnsetType = msgspec.UNSET
    delivered: int | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


class SessionEvent(Out, tag_field="type", tag="session-event"):
    """Ephemeral to everyone interested in the session; timestamp in ms."""

    session_id: str
    kind: str
    title: str
    body: str
    timestamp: int


def someone_looks(house: House, account_id: str) -> bool:
    """Whether a user-scoped client of the account is in the foreground, so that no push is needed."""
    return any(peer.app_state == "active" for peer in house.rooms.of(Audience(account_id)))


# --------------------------------------------------------------------------------------- endpoints
async def post_event(call: Call[PushEvent, None]) -> Pushed:
    house, body, session_id = call.house, call.body, call.path["id"]
    await house.store.read(sessions.owned, call.account_id, session_id)
    event = SessionEvent(session_id, body.kind, body.title, body.body, now_ms())
    house.bus.publish((Ephemeral(Audience.session(call.account_id, session_id), event),))
    if someone_looks(house, call.account_id):
        return Pushed("suppressed", reason="active-ui-client")
    return Pushed("no_tokens")


routes = [
    Route(
        "POST", "/v1/sessions/:id/push-event", post_event, body=PushEvent, answer=Pushed, refusals=[SESSION_NOT_FOUND]
    )
]
