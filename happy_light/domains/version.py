"""Small public answers: which app is too old, whether the server lives (section 12).

POST /v1/version
GET  /health
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec
from starlette.responses import Response

from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction
from happy_light.wire import Incoming, Outgoing

MINIMUM = (1, 4, 1)
STORES = {
    "ios": "https://apps.apple.com/us/app/happy-claude-code-client/id6748571505",
    "android": "https://play.google.com/store/apps/details?id=com.ex3ndr.happy",
}
_NUMBER = "(0|[1-9][0-9]{0,15})"
_SEMVER = re.compile(rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


# -------------------------------------------------------------------------------------------- wire
class App(Incoming, rename=None):
    """POST /v1/version"""

    platform: str
    version: str
    app_id: str


class Update(Outgoing):
    """Where to get a newer app; null for one that is good enough."""

    update_url: str | None


class Health(Outgoing):
    """GET /health; timestamp in ISO 8601."""

    status: Literal["ok", "error"]
    timestamp: str
    service: str
    error: str | msgspec.UnsetType = msgspec.UNSET


# -------------------------------------------------------------------------------------- operations
def too_old(version: str) -> bool:
    """Whether an app's version is below the minimum, or no version at all. A pre-release is too old."""
    match = _SEMVER.fullmatch(version.strip())
    if match is None:
        return True
    return tuple(int(part) for part in match.groups()[:3]) < MINIMUM or match[4] is not None


def answers(tx: ReadTransaction) -> bool:
    """Whether the database answers a real query."""
    return tx.fetch_one("SELECT count(*) FROM (SELECT 1 FROM accounts LIMIT 1) AS found") is not None


# --------------------------------------------------------------------------------------- endpoints
async def post_version(request: Request[App, None]) -> Update:
    store = STORES.get(request.body.platform.lower())
    return Update(store if store and too_old(request.body.version) else None)


async def health(request: Request[None, None]) -> Health | Response:
    request.context.probes.receive(request.scope)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        await request.context.database.read(answers)
    except Exception:
        body = Health("error", now, "happy-server", "Database connectivity failed")
        return responses.json_response(503, body)
    return Health("ok", now, "happy-server")


routes = [
    Route("POST", "/v1/version", post_version, body=App, answer=Update, public=True),
    Route("GET", "/health", health, answer=Health, other_responses={503: Health}, public=True),
]
