"""Usage: tokens and cost that agents report (docs/protocol.md, sections 8 and 14).

POST /v1/usage/query   sum reports by hour or day
socket usage-report
ephemeral usage
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Final, Literal

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
from happy_light.wire import Id, Incoming, NonEmptyStr, Outgoing

SECONDS: Final = {"hour": 3600, "day": 86_400}
_DOUBLE_MAX: Final = sys.float_info.max
_SAFE_INTEGER_MAX: Final = 2**53


# -------------------------------------------------------------------------------------------- wire
class UsageEvent(Outgoing, tag_field="type", tag="usage"):
    """Sent to user-scoped sockets: what a session reported; id is the session's, timestamp in ms."""

    id: str
    key: str
    tokens: dict[str, Any]
    cost: dict[str, Any]
    timestamp: int


Seconds = Annotated[int, msgspec.Meta(ge=1, le=_SAFE_INTEGER_MAX)]
Group = Literal["hour", "day"]


class UsageQuery(Incoming):
    """The body of POST /v1/usage/query; times in s, both included; groupBy is "day" by default."""

    session_id: str | None = None
    start_time: Seconds | None = None
    end_time: Seconds | None = None
    group_by: Group | None = None


class Bucket(Outgoing):
    """The sums of one hour or day of UTC; timestamp is its beginning in s."""

    timestamp: int
    tokens: dict[str, float]
    cost: dict[str, float]
    report_count: int


class Usage(Outgoing):
    """The hours or days that have reports, ascending."""

    usage: list[Bucket]
    group_by: Group
    total_reports: int


class UsageReport(Incoming):
    """The payload of `usage-report`: tokens and cost by kind, each with a `total`."""

    key: NonEmptyStr
    tokens: dict[str, float]
    cost: dict[str, float]
    session_id: Id | None = None


class ReportAck(Outgoing):
    """The ack of `usage-report`; times in ms."""

    report_id: str
    created_at: int
    updated_at: int
    success: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def store_report(
    tx: Transaction, account_id: str, session_id: str | None, key: str, tokens: dict[str, Any], cost: dict[str, Any]
) -> ReportAck:
    """Store the report, replacing one with the same session and key; announce it if it names a session.

    Raises ApiError SESSION_NOT_FOUND.
    """
    if session_id is not None:
        sessions.require_owned(tx, account_id, session_id)
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
        event = UsageEvent(session_id, key, tokens, cost, tx.now)
        tx.publish(Ephemeral(Audience(account_id), event, f"usage {session_id} {key}"))
    return ReportAck(*row)


def sum_reports(tx: ReadTransaction, account_id: str, query: UsageQuery) -> Usage:
    """Return the sums of the reports by hour or day. Raises ApiError SESSION_NOT_FOUND."""
    where, args = "account_id = ?", [account_id]
    if query.session_id:
        sessions.require_owned(tx, account_id, query.session_id)
        where, args = "session_id = ? AND account_id = ?", [query.session_id, account_id]
    start = (query.start_time or 0) * 1000
    end = (query.end_time or _SAFE_INTEGER_MAX) * 1000
    rows = tx.fetch_all(
        f"SELECT created_at, tokens, cost FROM usage_reports WHERE {where} AND created_at BETWEEN ? AND ? "
        "ORDER BY created_at",
        (*args, start, end),
    )
    group = query.group_by or "day"
    size = SECONDS[group]
    buckets: dict[int, Bucket] = {}
    for created_at, tokens, cost in rows:
        start_s = created_at // 1000 // size * size
        bucket = buckets.setdefault(start_s, Bucket(start_s, {}, {}, 0))
        bucket.report_count += 1
        _add(bucket.tokens, json_codec.decode(tokens))
        _add(bucket.cost, json_codec.decode(cost))
    return Usage(list(buckets.values()), group, len(rows))


def _add(sums: dict[str, float], report: dict[str, Any]) -> None:
    """Add the numbers of a report as JavaScript does, so that clients that sum reports get the same result."""
    for key, value in report.items():
        if not _is_number(value):
            continue
        total = sums.get(key, 0) + value
        sums[key] = total if abs(total) <= _SAFE_INTEGER_MAX else min(max(float(total), -_DOUBLE_MAX), _DOUBLE_MAX)


# --------------------------------------------------------------------------------------- endpoints
async def post_query(request: Request[UsageQuery, None]) -> Usage:
    """Return the sums of the account's or a session's reports by hour or day."""
    return await request.context.database.read(sum_reports, request.account_id, request.body)


# ----------------------------------------------------------------------------------------- sockets
def usage_report(context: ServerContext, client: Client, data: Any) -> asyncio.Future[ReportAck]:
    """Store tokens and cost of a key, replacing an older report of the same session and key."""
    # Checked here and not by a struct: clients expect a text of its own for each mistake in the payload.
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
    return context.database.write(client.account_id, store_report, session_id, key, tokens, cost)  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a double can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _DOUBLE_MAX


routes = [
    Route("POST", "/v1/usage/query", post_query, body=UsageQuery, answer=Usage, errors=[SESSION_NOT_FOUND]),
]
events = {"usage-report": EventHandler(usage_report, success_error, None, ReportAck, like=UsageReport)}
