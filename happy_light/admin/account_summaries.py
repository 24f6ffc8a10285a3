"""Accounts in short, for a list that is shown again and again: nothing in it needs more than indexes.

GET    /admin/api/account-summaries            up to 200 accounts, or those that fit a text, the newest activity first
GET    /admin/api/accounts/:account/activity   how many sessions and machines of an account are active
"""

from __future__ import annotations

from typing import Final

from happy_light.admin.account_admin import UNKNOWN_ACCOUNT, id_of
from happy_light.admin.account_list import AccountSummary, fingerprint_of, full_name
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction
from happy_light.wire import Incoming, Outgoing

LIST_MAX: Final = 200


class SummaryQuery(Incoming):
    """GET /admin/api/account-summaries: a part of the label, name, username, id or fingerprint."""

    search: str = ""


class AccountSummaries(Outgoing):
    """GET /admin/api/account-summaries; `more`: there are others."""

    accounts: list[AccountSummary]
    more: bool


class AccountActivity(Outgoing):
    """GET /admin/api/accounts/:account/activity: numbers of sessions and machines."""

    sessions_active: int
    machines: int
    machines_online: int


# -------------------------------------------------------------------------------------- operations
def summaries(tx: ReadTransaction, search: str) -> AccountSummaries:
    """Return the accounts whose names contain a text, all for an empty one."""
    wanted = search.strip().lower()
    rows = tx.fetch_all(
        "SELECT id, public_key, label, username, first_name, last_name, created_at, updated_at, "
        "(SELECT max(updated_at) FROM sessions s WHERE s.account_id = a.id), "
        "(SELECT max(active_at) FROM machines m WHERE m.account_id = a.id) FROM accounts a"
    )
    found = []
    for id, key, label, username, first, last, created, *times in rows:
        name = full_name(first, last)
        summary = AccountSummary(
            id, fingerprint_of(key), label, username, name, created, max(time or 0 for time in times)
        )
        names = (id, summary.fingerprint, label, username, name)
        if not wanted or any(wanted in each.lower() for each in names if each):
            found.append(summary)
    found.sort(key=lambda summary: -summary.last_active_at)
    return AccountSummaries(found[:LIST_MAX], len(found) > LIST_MAX)


def activity(tx: ReadTransaction, account_id: str) -> AccountActivity:
    """Count what of the account is active."""
    sessions = tx.fetch_all("SELECT count(*) FROM sessions WHERE account_id = ? AND active = 1", (account_id,))
    machines = tx.fetch_all(
        "SELECT count(*), count(*) FILTER (WHERE active = 1) FROM machines WHERE account_id = ?", (account_id,)
    )
    return AccountActivity(sessions[0][0], *machines[0])


# --------------------------------------------------------------------------------------- endpoints
async def get_summaries(request: Request[None, SummaryQuery]) -> AccountSummaries:
    """List accounts in short."""
    return await request.context.database.read(summaries, request.query.search)


async def get_activity(request: Request[None, None]) -> AccountActivity:
    """Show what of an account is active."""
    return await request.context.database.read(activity, await id_of(request))


routes = [
    Route(
        "GET", "/admin/api/account-summaries", get_summaries, query=SummaryQuery, answer=AccountSummaries, public=True
    ),
    Route(
        "GET", "/admin/api/accounts/:account/activity", get_activity, answer=AccountActivity,
        errors=[UNKNOWN_ACCOUNT], public=True,
    ),
]  # fmt: skip
