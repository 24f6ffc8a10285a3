"""Who may make an account beside what the setting says: a window of time, and keys that are let in."""

from __future__ import annotations

from happy_light import wire
from happy_light.domains import auth
from happy_light.errors import StartError
from happy_light.store import Rx, Tx
from happy_light.upkeep.desk import Desk, Nothing, Request, Tell
from happy_light.wire import Out

WINDOW_MAX = 30 * 86_400  # s


class Window(Out):
    """`registration.open`: for how long, in s."""

    seconds: int


class Key(Out):
    """`accounts.allow`: a fingerprint in its canonical form."""

    fingerprint: str


class Registration(Out):
    """The state: the setting, the end of the window (ms; null: none is open), and who is let in."""

    setting: str
    open_until: int | None
    allowed: list[str]
    accepts: bool
    """Whether a new key can make an account right now."""


def state(rx: Rx, setting: str) -> Registration:
    """Who may make an account now."""
    until = auth.window(rx)
    allowed = [row[0] for row in rx.all("SELECT fingerprint FROM allowed_keys ORDER BY created_at")]
    return Registration(
        setting, until if until > wire.now_ms() else None, allowed, auth.accepts(rx, wire.now_ms(), setting)
    )


def open_window(tx: Tx, until: int) -> None:
    """Everybody may make an account until then (ms); 0 ends the window."""
    tx.execute("DELETE FROM meta WHERE key = 'registration_until'")
    if until:
        tx.execute("INSERT INTO meta (key, value) VALUES ('registration_until', ?)", (str(until),))


def let_in(tx: Tx, fingerprint: str) -> None:
    """The owner of that key may make an account."""
    tx.execute("INSERT OR IGNORE INTO allowed_keys (fingerprint, created_at) VALUES (?, ?)", (fingerprint, tx.now))


async def show(desk: Desk, what: Nothing, tell: Tell) -> Registration:
    return await desk.store.read(state, desk.settings.registration)


async def open_for(desk: Desk, what: Window, tell: Tell) -> Registration:
    if not 0 <= what.seconds <= WINDOW_MAX:
        raise StartError(f"A window is open for at most {WINDOW_MAX // 86_400} days.")
    await desk.store.write(open_window, wire.now_ms() + what.seconds * 1000 if what.seconds else 0)
    return await show(desk, Nothing(), tell)


async def allow(desk: Desk, what: Key, tell: Tell) -> Registration:
    await desk.store.write(let_in, what.fingerprint)
    return await show(desk, Nothing(), tell)


requests = {
    "registration.show": Request(Nothing, Registration, show),
    "registration.open": Request(Window, Registration, open_for),
    "accounts.allow": Request(Key, Registration, allow),
}
