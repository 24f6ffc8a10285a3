"""Who may make an account beside what the setting says: a window of time, and keys that are let in."""

from __future__ import annotations

from happy_light import wire
from happy_light.admin.context import AdminContext, AdminRequest, Nothing, ProgressCallback
from happy_light.domains import auth
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Outgoing

WINDOW_MAX = 30 * 86_400  # s


class Window(Outgoing):
    """`registration.open`: for how long, in s."""

    seconds: int


class Key(Outgoing):
    """`accounts.allow`: a fingerprint in its canonical form."""

    fingerprint: str


class Registration(Outgoing):
    """The state: the setting, the end of the window (ms; null: none is open), and who is let in."""

    setting: str
    open_until: int | None
    allowed: list[str]
    accepts: bool
    """Whether a new key can make an account right now."""


def state(tx: ReadTransaction, setting: str) -> Registration:
    """Who may make an account now."""
    until = auth.window(tx)
    allowed = [row[0] for row in tx.fetch_all("SELECT fingerprint FROM allowed_keys ORDER BY created_at")]
    return Registration(
        setting, until if until > wire.now_ms() else None, allowed, auth.accepts(tx, wire.now_ms(), setting)
    )


def open_window(tx: Transaction, until: int) -> None:
    """Everybody may make an account until then (ms); 0 ends the window."""
    tx.execute("DELETE FROM meta WHERE key = 'registration_until'")
    if until:
        tx.execute("INSERT INTO meta (key, value) VALUES ('registration_until', ?)", (str(until),))


def let_in(tx: Transaction, fingerprint: str) -> None:
    """The owner of that key may make an account."""
    tx.execute("INSERT OR IGNORE INTO allowed_keys (fingerprint, created_at) VALUES (?, ?)", (fingerprint, tx.now))


async def show(admin: AdminContext, what: Nothing, progress: ProgressCallback) -> Registration:
    return await admin.database.read(state, admin.settings.registration)


async def open_for(admin: AdminContext, what: Window, progress: ProgressCallback) -> Registration:
    if not 0 <= what.seconds <= WINDOW_MAX:
        raise OperatorError(f"A window is open for at most {WINDOW_MAX // 86_400} days.")
    await admin.database.write_for((), open_window, wire.now_ms() + what.seconds * 1000 if what.seconds else 0)
    return await show(admin, Nothing(), progress)


async def allow(admin: AdminContext, what: Key, progress: ProgressCallback) -> Registration:
    await admin.database.write_for((), let_in, what.fingerprint)
    return await show(admin, Nothing(), progress)


requests = {
    "registration.show": AdminRequest(Nothing, Registration, show),
    "registration.open": AdminRequest(Window, Registration, open_for),
    "accounts.allow": AdminRequest(Key, Registration, allow),
}
