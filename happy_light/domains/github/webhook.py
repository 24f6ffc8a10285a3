"""The webhook that GitHub calls."""

from __future__ import annotations

import hmac
from typing import Final, Literal

from happy_light.errors import INVALID_SIGNATURE, WEBHOOKS_NOT_CONFIGURED, ApiError, BadRequest
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Outgoing

BODY_MAX: Final = 25 * 1024 * 1024  # bytes; GitHub sends no more


# -------------------------------------------------------------------------------------------- wire
class Received(Outgoing):
    """The event was received and its signature is valid."""

    received: Literal[True] = True


# --------------------------------------------------------------------------------------- endpoints
async def post_webhook(request: Request[None, None]) -> Received:
    """Check the signature of an event of GitHub; the event itself is ignored."""
    signature = request.header(b"x-hub-signature-256")
    if signature is None or request.header(b"x-github-event") is None:
        raise BadRequest("The headers x-hub-signature-256 and x-github-event are required")
    secret = request.context.settings.github_webhook_secret
    if secret is None:
        raise ApiError(WEBHOOKS_NOT_CONFIGURED)
    digest = hmac.new(secret.encode(), digestmod="sha256")
    async for piece in request.stream(BODY_MAX):
        digest.update(piece)
    if not hmac.compare_digest(f"sha256={digest.hexdigest()}".encode(), signature.encode()):
        raise ApiError(INVALID_SIGNATURE)
    return Received()


routes = [
    Route(
        "POST", "/v1/connect/github/webhook", post_webhook, answer=Received, public=True, streams=True,
        errors=[INVALID_SIGNATURE, WEBHOOKS_NOT_CONFIGURED],
    ),
]  # fmt: skip
