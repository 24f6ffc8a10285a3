"""What agents cost, as they report it (protocol.md sections 8 and 14).

POST /v1/usage/query   sums by hour or day
socket usage-report
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Literal

import msgspec

from happy_light import ids, json_codec
from happy_light.bus import Audience, Ephemeral
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.errors import SESSION_NOT_FOUND, ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import success_error
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, NonEmptyStr, Outgoing

SECONDS = {"hour": 3600, "day": 86_400}
_LARGEST = sys.float_info.max


# -------------------------------------------------------------------------------------------- wire
class UsageEvent(Outgoing, tag_field="type", tag="usage"):
    """Ephemeral to user-scoped sockets; id is the session, timestamp in ms."""

    id: str
    key: str
    tokens: dict[str, Any]
    cost: dict[str, Any]
    timestamp: int


Seconds = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Group = Literal["hour", "day"]


class Query(Incoming):
    """POST /v1/usage/query; times in s, both included."""

    session_id: str | None = None
    start_time: Seconds | None = None
    end_time: Seconds | None = None
    group_by: Group | None = None


class Bucket(Outgoing):
    """The reports made in one hour or day of UTC; timestamp is its beginning in s."""

    timestamp: int
    tokens: dict[str, float]
    cost: dict[str, float]
    report_count: int


class Usage(Outgoing):
    """The buckets that have reports, ascending."""

    usage: list[Bucket]
    group_by: Group
    total_reports: int


class Report(Incoming):
    """`usage-report`: tokens and cost by kind, each with a `total`."""

    key: NonEmptyStr
    tokens: dict[str, float]
    cost: dict[str, float]
    session_id: str | None = None


class ReportAck(Outgoing):
    """Ack of `usage-report`."""

    report_id: str
    created_at: int
    updated_at: int
    success: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def report(
    tx: Transaction, account_id: str, session_id: str | None, key: str, tokens: dict[str, Any], cost: dict[str, Any]
) -> ReportAck:
    """Stores the report, or puts it in the place of the one with the same session and key. Raises Refused."""
    if session_id is not None:
        sessions.owned(tx, account_id, session_id)
    row = tx.fetch_one(
        "INSERT INTO usage_reports (id, account_id, session_id, key, tokens, cost, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, coalesce(session_id, ''), key) DO UPDATE "
        "SET tokens = excluded.tokens, cost = excluded.cost, updated_at = excluded.updated_at "
        "RETURNING id, created_at, updated_at",
        (ids.new_id(), account_id, session_id, key, json_codec.encode(tokens).decode(),
         json_codec.encode(cost).decode(), tx.now, tx.now),
    )  # fmt: skip
    assert row is not None
    if session_id is not None:
        tx.publish(Ephemeral(Audience(account_id), UsageEvent(session_id, key, tokens, cost, tx.now)))
    return ReportAck(*row)


def summed(tx: ReadTransaction, account_id: str, query: Query) -> Usage:
    """What was reported, by hour or day (the default). Raises Refused."""
    sql, args = "account_id = ?", [account_id]
    if query.session_id:
        sessions.owned(tx, account_id, query.session_id)
        sql, args = "session_id = ? AND account_id = ?", [query.session_id, account_id]
    start = (query.start_time or 0) * 1000
    end = (query.end_time or 2**53) * 1000
    rows = tx.fetch_all(
        f"SELECT created_at, tokens, cost FROM usage_reports WHERE {sql} AND created_at BETWEEN ? AND ? "
        "ORDER BY created_at",
        (*args, start, end),
    )
    group = query.group_by or "day"
    size = SECONDS[group]
    buckets: dict[int, Bucket] = {}
    for created_at, tokens, cost in rows:
        beginning = created_at // 1000 // size * size
        bucket = buckets.setdefault(beginning, Bucket(beginning, {}, {}, 0))
        bucket.report_count += 1
        _add(bucket.tokens, json_codec.decode(tokens))
        _add(bucket.cost, json_codec.decode(cost))
    return Usage(list(buckets.values()), group, len(rows))


def _add(sums: dict[str, float], report: dict[str, Any]) -> None:
    """Adds as JavaScript does, so that a client that adds up reports by itself gets the same numbers."""
    for key, value in report.items():
        if not _is_number(value):
            continue
        total = sums.get(key, 0) + value
        sums[key] = total if abs(total) <= 2**53 else min(max(float(total), -_LARGEST), _LARGEST)


# --------------------------------------------------------------------------------------- endpoints
async def post_query(request: Request[Query, None]) -> Usage:
    return await request.context.database.read(summed, request.account_id, request.body)


# ----------------------------------------------------------------------------------------- sockets
def usage_report(context: ServerContext, client: Client, data: Any) -> asyncio.Future[ReportAck]:
    """The payload's mistakes have texts of their own, so it is looked at by hand."""
    if not isinstance(data, dict):
        raise ApiError(ErrorResponse(400, "Invalid key"))
    key, tokens, cost, session_id = (data.get(name) for name in ("key", "tokens", "cost", "sessionId"))
    if not isinstance(key, str) or not key:
        raise ApiError(ErrorResponse(400, "Invalid key"))
    for name, numbers in (("tokens", tokens), ("cost", cost)):
        if not isinstance(numbers, dict) or not _is_number(numbers.get("total")):
            raise ApiError(ErrorResponse(400, f"Invalid {name} object - must include total"))
    if session_id is not None and (not isinstance(session_id, str) or not session_id):
        raise ApiError(ErrorResponse(400, "Invalid sessionId"))
    return context.database.write(client.account_id, report, session_id, key, tokens, cost)  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    """Whether it is a number, and one that a double can hold (JSON knows longer integers)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


routes = [
    Route("POST", "/v1/usage/query", post_query, body=Query, answer=Usage, errors=[SESSION_NOT_FOUND]),
]
events = {"usage-report": EventHandler(usage_report, success_error, None, ReportAck, like=Report)}
