"""`accounts`: who has an account here and how large it is; letting in, signing out, deleting."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from happy_light.commands import output, progress_bar
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.admin.account_admin import Account

NAME = "accounts"
WHAT = {
    "list": "every account, the newest activity first",
    "show": "one account",
    "allow": "let a key make an account although registration is closed",
    "sign-out": "make every token of an account worthless; its clients have to sign in again",
    "delete": "delete an account with everything of it, files too",
}
HELP = "list and show accounts, let keys in, sign accounts out, delete them"


def add(parser: argparse.ArgumentParser) -> None:
    """What to do, and to whom."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "What to do with accounts:\n" + "\n".join(f"  {name:<9} {text}" for name, text in WHAT.items())
    parser.add_argument("what", choices=WHAT, help="see above")
    parser.add_argument(
        "account", nargs="?",
        help="whose: an id, username, public key (hex or base64) or fingerprint; not for list",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Does it, in the running server if there is one. Raises StartError."""
    from happy_light import store
    from happy_light.admin import account_admin, control, registration
    from happy_light.auth.fingerprints import parse_fingerprint

    if (arguments.account is None) != (arguments.what == "list"):
        raise OperatorError("`accounts list` takes no account." if arguments.account else "Say which account is meant.")
    if arguments.what == "allow":
        fingerprint = parse_fingerprint(arguments.account)
        if fingerprint is None:
            raise OperatorError(
                f"{arguments.account!r} is no public key (32 bytes in hex or base64) and no fingerprint."
            )
        state = control.ask(settings, "accounts.allow", registration.Key(fingerprint))
        output.show(arguments, state, f"Key {fingerprint} may make an account.")
        return
    with store.look(settings.database) as tx:
        if arguments.what == "list":
            rows = account_admin.list_all(tx, settings)
            output.show(arguments, rows, _table(rows))
            return
        (account,) = account_admin.list_all(tx, settings, account_admin.find(tx, arguments.account))
    if arguments.what == "show":
        output.show(arguments, account, _card(account))
    elif arguments.what == "sign-out":
        done = control.ask(settings, "accounts.sign-out", account_admin.Named(account.id))
        output.show(arguments, done, f"{account.id} is signed out everywhere.")
    else:
        if not arguments.yes and not _sure(account):
            print("Nothing was deleted.", file=sys.stderr)
            sys.exit(1)
        with progress_bar.bar("deleting") as progress:
            done = control.ask(settings, "accounts.delete", account_admin.Named(account.id), progress)
        text = f"{account.id} is deleted: {done.messages} messages, {output.size(done.bytes)} of files."
        output.show(arguments, done, text)


def _sure(account: Account) -> bool:
    """Asks. Raises StartError where nobody can answer."""
    if not sys.stdin.isatty():
        raise OperatorError("Nobody is there to confirm; add --yes to delete without asking.")
    print(_card(account), "\n", file=sys.stderr, sep="")
    print("Delete this account and everything of it, for good? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _table(rows: list[Account]) -> str:
    lines = [("ACCOUNT", "FINGERPRINT", "NAME", "SESSIONS", "MESSAGES", "STORED", "FILES", "LAST ACTIVE")]
    for row in rows:
        lines.append(
            (
                row.id, row.fingerprint, row.username or row.name or "-", str(row.sessions), str(row.messages),
                output.size(row.database_bytes), output.size(row.file_bytes), output.day(row.last_active_at),
            )
        )  # fmt: skip
    return output.columns(lines) if rows else "There are no accounts."


def _card(account: Account) -> str:
    return output.columns(
        [
            ("Account", account.id),
            ("Fingerprint", account.fingerprint),
            ("Username", account.username or "-"),
            ("Name", account.name or "-"),
            ("Created", output.day(account.created_at)),
            ("Last active", output.day(account.last_active_at)),
            ("Sessions", str(account.sessions)),
            ("Messages", str(account.messages)),
            ("Machines", str(account.machines)),
            ("Artifacts", str(account.artifacts)),
            ("Stored", output.size(account.database_bytes)),
            ("Files", output.size(account.file_bytes)),
        ]
    )
