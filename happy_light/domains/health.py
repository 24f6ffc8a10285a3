"""Health check (docs/protocol.md, section 12).

GET /health   get whether the server and its database work
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from starlette.responses import Response

from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction
from happy_light.wire import Outgoing

SERVICE: Final = "happy-server"
"""The name of the service that clients expect."""


# -------------------------------------------------------------------------------------------- wire
class Health(Outgoing):
    """Whether the server and its database work; timestamp in ISO 8601."""

    status: Literal["ok", "error"]
    timestamp: str
    service: str
    error: str | msgspec.UnsetType = msgspec.UNSET


# -------------------------------------------------------------------------------------- operations
def check_database(tx: ReadTransaction) -> bool:
    """Return True if the database answers a query that reads a table. Raises what the database raises."""
    return tx.fetch_one("SELECT count(*) FROM (SELECT 1 FROM accounts LIMIT 1) AS found") is not None


# --------------------------------------------------------------------------------------- endpoints
async def get_health(request: Request[None, None]) -> Health | Response:
    """Return whether the server and its database work; 503 if the database does not."""
    request.context.probes.receive(request.scope)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        await request.context.database.read(check_database)
    except Exception:
        return responses.json_response(503, Health("error", now, SERVICE, "Database connectivity failed"))
    return Health("ok", now, SERVICE)


routes = [Route("GET", "/health", get_health, answer=Health, other_responses={503: Health}, public=True)]
