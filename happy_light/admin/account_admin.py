"""Administration of accounts: list them, sign them out, delete them with everything that they own.

GET    /admin/api/accounts                     every account, the newest activity first
GET    /admin/api/accounts/:account            one account
POST   /admin/api/accounts/:account/sign-out   make every token of an account invalid and close its sockets
PUT    /admin/api/accounts/:account/label      give an account a name for operators
DELETE /admin/api/accounts/:account            delete an account, its data and its files

`:account` is an id, username, public key (hex or base64) or fingerprint.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated, Any, Final

from starlette.responses import Response

from happy_light import store, threads
from happy_light.admin import stored_files
from happy_light.admin.account_list import Account, AccountList, description, find, list_accounts
from happy_light.admin.progress import NDJSON, Failed, Progress, ProgressCallback, stream
from happy_light.auth import devices
from happy_light.auth.authentication import DELETED
from happy_light.context import ServerContext
from happy_light.errors import ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

UNKNOWN_ACCOUNT: Final = ErrorResponse(404, "No account has this id, username, public key or fingerprint")
WRONG_LABEL: Final = ErrorResponse(400, "A label has at most 100 characters, all of them printable")
LABEL_MAX: Final = 100  # characters
DELETE_BATCH: Final = 2_000  # messages deleted in one transaction, so that other writes do not wait long
_NEVER: Final = 2**53  # s; later than every token is issued


# -------------------------------------------------------------------------------------------- wire
class Label(Incoming):
    """PUT /admin/api/accounts/:account/label: what the operator calls the account; "" for nothing."""

    label: str


class Labelled(Outgoing):
    """The answer of PUT /admin/api/accounts/:account/label."""

    id: str
    label: str | None


class AccountSignedOut(Outgoing):
    """The answer of POST /admin/api/accounts/:account/sign-out."""

    id: str


class Deleted(Outgoing):
    """What a deletion removed: messages, and the bytes of files."""

    id: str
    messages: int
    bytes: int


class DeletionDone(Outgoing):
    """The last line of a deletion."""

    result: Deleted


# -------------------------------------------------------------------------------------- operations
def sign_out(tx: Transaction, account_id: str) -> None:
    """Make every token of the account that exists now invalid, and every pairing it approved. Raises ApiError."""
    changed = tx.execute(
        "UPDATE accounts SET token_generation = token_generation + 1, tokens_since = ? WHERE id = ?",
        (tx.now // 1000 + 1, account_id),
    )
    if not changed:
        raise ApiError(UNKNOWN_ACCOUNT)
    tx.execute("DELETE FROM auth_requests WHERE account_id = ?", (account_id,))
    devices.sign_out_all(tx, account_id)


def set_label(tx: Transaction, account_id: str, label: str | None) -> None:
    """Store what the operator calls the account; None for nothing. Raises ApiError."""
    if not tx.execute("UPDATE accounts SET label = ? WHERE id = ?", (label, account_id)):
        raise ApiError(UNKNOWN_ACCOUNT)


def disable(tx: Transaction, account_id: str) -> tuple[list[str], list[str], int]:
    """Make signing in to the account impossible: the first step of its deletion. Raises ApiError.

    Returns the ids of its sessions and of its projects, and how many messages it has.
    """
    changed = tx.execute(
        f"UPDATE accounts SET public_key = '{DELETED}' || id, token_generation = token_generation + 1, "
        "tokens_since = ?, username = NULL WHERE id = ?",
        (_NEVER, account_id),
    )
    if not changed:
        raise ApiError(UNKNOWN_ACCOUNT)
    tx.execute("DELETE FROM auth_requests WHERE account_id = ?", (account_id,))
    devices.sign_out_all(tx, account_id)
    sessions = tx.fetch_all("SELECT id, seq FROM sessions WHERE account_id = ?", (account_id,))
    projects = tx.fetch_all("SELECT id FROM projects WHERE account_id = ?", (account_id,))
    return [row[0] for row in sessions], [row[0] for row in projects], sum(row[1] for row in sessions)


def delete_messages(tx: Transaction, account_id: str, session_id: str) -> int:
    """Delete up to DELETE_BATCH messages of a session, oldest first. Return how many; 0 when none are left."""
    return tx.execute(
        "DELETE FROM messages WHERE session_id = ? AND seq IN (SELECT m.seq FROM sessions s JOIN messages m "
        "ON m.session_id = s.id WHERE s.id = ? AND s.account_id = ? ORDER BY m.seq LIMIT ?)",
        (session_id, session_id, account_id, DELETE_BATCH),
    )


def delete_account(tx: Transaction, account_id: str) -> None:
    """Delete the account with every row that refers to it."""
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    tx.execute("DELETE FROM accounts WHERE id = ?", (account_id,))
    if row is not None and row[0] is not None:
        tx.execute("DELETE FROM github_users WHERE id = ?", (row[0],))


async def delete_everything(context: ServerContext, account_id: str, progress: ProgressCallback) -> Deleted:
    """Delete an account in batches. What is left after an interruption is deleted by the next call."""
    name = await context.database.read(description, account_id)
    sessions, projects, total = await context.database.write(account_id, disable)
    messages = size = 0
    for session_id in sessions:
        while count := await context.database.write(account_id, delete_messages, session_id):
            messages += count
            progress(messages, total)
    prefixes = [f"sessions/{session_id}/" for session_id in sessions]
    prefixes += [f"projects/{project_id}/" for project_id in projects]
    for prefix in [*prefixes, f"public/users/{account_id}/"]:
        size += await stored_files.delete_stored(context.blobs, prefix)
    await context.database.write(account_id, delete_account)
    log.info("account %s is deleted: %d messages, %d bytes of files", name, messages, size)
    return Deleted(account_id, messages, size)


def _read_accounts(context: ServerContext, only: str | None = None) -> list[Account]:
    stored = list(context.blobs.walk_owners())
    # On a connection of its own: it reads the whole database, and clients' reads should not wait for that.
    with store.open_for_reading(context.settings) as tx:
        return list_accounts(tx, stored, only)


async def id_of(request: Request[Any, Any]) -> str:
    """Return the id of the account that the path names. Raises ApiError UNKNOWN_ACCOUNT."""
    account_id = await request.context.database.read(find, request.path["account"])
    if account_id is None:
        raise ApiError(UNKNOWN_ACCOUNT)
    return account_id


# --------------------------------------------------------------------------------------- endpoints
async def get_accounts(request: Request[None, None]) -> AccountList:
    """List every account."""
    return AccountList(await threads.run(_read_accounts, request.context))


async def get_account(request: Request[None, None]) -> Account:
    """Show one account."""
    found = await threads.run(_read_accounts, request.context, await id_of(request))
    if not found:  # deleted meanwhile
        raise ApiError(UNKNOWN_ACCOUNT)
    return found[0]


async def post_sign_out(request: Request[None, None]) -> AccountSignedOut:
    """Sign an account out everywhere."""
    account_id = await id_of(request)
    await request.context.database.write(account_id, sign_out)
    name = await request.context.database.read(description, account_id)
    log.info("account %s is signed out everywhere", name)
    return AccountSignedOut(account_id)


async def put_label(request: Request[Label, None]) -> Labelled:
    """Give an account a name for operators."""
    label = request.body.label.strip() or None
    if label is not None and (len(label) > LABEL_MAX or not label.isprintable()):
        raise ApiError(WRONG_LABEL)
    account_id = await id_of(request)
    await request.context.database.write(account_id, set_label, label)
    log.info("account %s has the label %r", account_id, label or "")
    return Labelled(account_id, label)


async def delete(request: Request[None, None]) -> Response:
    """Delete an account and report the progress."""
    return stream(partial(delete_everything, request.context, await id_of(request)))


_PATH = "/admin/api/accounts/:account"
routes = [
    Route("GET", "/admin/api/accounts", get_accounts, answer=AccountList, public=True),
    Route("GET", _PATH, get_account, answer=Account, errors=[UNKNOWN_ACCOUNT], public=True),
    Route(
        "POST", f"{_PATH}/sign-out", post_sign_out, answer=AccountSignedOut, errors=[UNKNOWN_ACCOUNT], public=True
    ),
    Route(
        "PUT", f"{_PATH}/label", put_label, body=Label, answer=Labelled, errors=[UNKNOWN_ACCOUNT, WRONG_LABEL],
        public=True,
    ),
    Route(
        "DELETE", _PATH, delete, answer=Annotated[Progress | Failed | DeletionDone, NDJSON],
        errors=[UNKNOWN_ACCOUNT], public=True,
    ),
]  # fmt: skip
