"""`accounts`: list, show and label accounts, let keys in, sign accounts or devices out, delete them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.admin.account_list import Account
    from happy_light.admin.progress import ProgressCallback
    from happy_light.auth.devices import Device

T = TypeVar("T")

_PATH = "/admin/api/accounts"


def _add_account(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", help="an id, username, public key (hex or base64) or fingerprint")
    add_json(parser)


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="a public key (hex or base64) or its fingerprint, as a refused sign-in shows it")
    add_json(parser)


def _add_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", help="an id, username, public key (hex or base64) or fingerprint")
    parser.add_argument("text", help='what to call it, for instance "Mum\'s phone"; "" removes the label')
    add_json(parser)


def _add_sign_out(parser: argparse.ArgumentParser) -> None:
    _add_account(parser)
    parser.add_argument("--device", metavar="ID", help="sign out this device only; `accounts devices` has the ids")


def _add_delete(parser: argparse.ArgumentParser) -> None:
    _add_account(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _call(
    settings: Settings, method: str, account: str, answer: type[T], action: str = "",
    body: Any = None, progress: ProgressCallback | None = None,
) -> T:  # fmt: skip
    from happy_light.admin import client

    more: dict[str, Any] = {} if progress is None else {"progress": progress}
    return client.call(settings, method, f"{_PATH}/{quote(account, safe='')}{action}", body, answer=answer, **more)


def list_accounts(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print every account. Raises OperatorError."""
    from happy_light.admin import client
    from happy_light.admin.account_list import AccountList

    accounts = client.call(settings, "GET", _PATH, answer=AccountList).accounts
    output.show(arguments, accounts, _table(accounts))


def show(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print one account. Raises OperatorError."""
    from happy_light.admin.account_list import Account

    account = _call(settings, "GET", arguments.account, Account)
    output.show(arguments, account, _details(account))


def list_devices(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the devices of an account. Raises OperatorError."""
    from happy_light.admin.devices import DeviceList

    devices = _call(settings, "GET", arguments.account, DeviceList, "/devices").devices
    output.show(arguments, devices, _device_table(devices))


def allow(settings: Settings, arguments: argparse.Namespace) -> None:
    """Let a key make an account. Raises OperatorError."""
    from happy_light.admin import client
    from happy_light.admin.registration import Key, Registration

    state = client.call(
        settings, "POST", "/admin/api/registration/keys", Key(arguments.key.strip()), answer=Registration
    )
    output.show(arguments, state, "The owner of this key may make an account.")


def sign_out(settings: Settings, arguments: argparse.Namespace) -> None:
    """Sign an account out everywhere, or one device of it. Raises OperatorError."""
    from happy_light.admin.account_admin import AccountSignedOut
    from happy_light.admin.devices import DeviceEnded

    if arguments.device is not None:
        path = f"/devices/{quote(arguments.device, safe='')}/sign-out"
        ended = _call(settings, "POST", arguments.account, DeviceEnded, path)
        output.show(arguments, ended, f"Device {ended.device} of {ended.id} is signed out.")
        return
    done = _call(settings, "POST", arguments.account, AccountSignedOut, "/sign-out")
    output.show(arguments, done, f"{done.id} is signed out everywhere.")


def label(settings: Settings, arguments: argparse.Namespace) -> None:
    """Give an account a name for operators. Raises OperatorError."""
    from happy_light.admin.account_admin import Label, Labelled

    done = _call(settings, "PUT", arguments.account, Labelled, "/label", Label(arguments.text))
    text = f"{done.id} has no label." if done.label is None else f"{done.id} is called {done.label}."
    output.show(arguments, done, text)


def delete(settings: Settings, arguments: argparse.Namespace) -> None:
    """Delete an account after a confirmation; end the process with 1 without one. Raises OperatorError."""
    from happy_light.admin.account_admin import Deleted
    from happy_light.admin.account_list import Account

    account = _call(settings, "GET", arguments.account, Account)
    if not arguments.yes and not _confirmed(account):
        print("Nothing was deleted.", file=sys.stderr)
        sys.exit(1)
    with progress_bar.bar("deleting") as progress:
        done = _call(settings, "DELETE", account.id, Deleted, progress=progress)
    text = f"{account.id} is deleted: {done.messages} messages, {output.size(done.bytes)} of files."
    output.show(arguments, done, text)


def _confirmed(account: Account) -> bool:
    """Ask on the terminal. Raises OperatorError if there is none."""
    if not sys.stdin.isatty():
        raise OperatorError("There is no terminal to confirm on; add --yes to delete without asking.")
    print(_details(account), "\n", file=sys.stderr, sep="")
    print("Delete this account with all its data, for good? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _table(accounts: list[Account]) -> str:
    lines = [("ACCOUNT", "FINGERPRINT", "NAME", "SESSIONS", "MESSAGES", "STORED", "FILES", "LAST ACTIVE")]
    for each in accounts:
        lines.append(
            (
                each.id, each.fingerprint, each.label or each.username or each.name or "-", str(each.sessions),
                str(each.messages),
                output.size(each.database_bytes), output.size(each.file_bytes), output.day(each.last_active_at),
            )
        )  # fmt: skip
    return output.columns(lines) if accounts else "There are no accounts."


_KINDS = {
    "signature": "signed in with the key", "terminal": "terminal", "link": "linked device",
    "import": "imported", "older": "before devices were recorded", "secret": "made with the master secret",
}  # fmt: skip


def _device_table(devices: list[Device]) -> str:
    lines = [("DEVICE", "HOW IT CAME", "APPROVED BY", "CLIENT", "ADDRESS", "SIGNED IN", "LAST SEEN")]
    for each in devices:
        lines.append(
            (
                each.id, _KINDS[each.kind], each.approved_by or "-", each.client or "-", each.address or "-",
                output.day(each.created_at), output.day(each.last_seen_at),
            )
        )  # fmt: skip
    return output.columns(lines) if devices else "No device is signed in."


def _details(account: Account) -> str:
    return output.columns(
        [
            ("Account", account.id),
            ("Fingerprint", account.fingerprint),
            ("Label", account.label or "-"),
            ("Username", account.username or "-"),
            ("Name", account.name or "-"),
            ("Created", output.day(account.created_at)),
            ("Last active", output.day(account.last_active_at)),
            ("Sessions", str(account.sessions)),
            ("Messages", str(account.messages)),
            ("Machines", str(account.machines)),
            ("Artifacts", str(account.artifacts)),
            ("Projects", str(account.projects)),
            ("Stored", output.size(account.database_bytes)),
            ("Files", output.size(account.file_bytes)),
        ]
    )


command = Command(
    name="accounts",
    help="list, show and label accounts, let keys in, sign accounts or devices out, delete them",
    subcommands=(
        Command(name="list", help="list every account, the newest activity first", run=list_accounts, add=add_json),
        Command(name="show", help="show one account", run=show, add=_add_account),
        Command(
            name="allow", help="let a key make an account although registration is closed", run=allow, add=_add_key
        ),
        Command(
            name="sign-out", help="make every token of an account, or of one device, invalid; it has to sign in again",
            run=sign_out, add=_add_sign_out,
        ),
        Command(
            name="devices", help="list the devices of an account, those seen last first", run=list_devices,
            add=_add_account,
        ),
        Command(name="label", help="give an account a name that only operators see", run=label, add=_add_label),
        Command(name="delete", help="delete an account with all its data and files", run=delete, add=_add_delete),
    ),
)  # fmt: skip
