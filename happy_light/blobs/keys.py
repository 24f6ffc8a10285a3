"""Keys: the names that files are stored under, and where each lies in the data folder.

public/users/<account>/<path>                 files/public/users/<account>/<path>
sessions/<session>/attachments/<uuid>.enc     attachments/sessions/<session>/<uuid>.enc
sessions/<session>/avatar/<uuid>.enc          attachments/sessions/<session>/avatar/<uuid>.enc
projects/<project>/avatar/<uuid>.enc          attachments/projects/<project>/avatar/<uuid>.enc

Only the first is public. No other key exists: whatever takes a key or a path from elsewhere checks it here.
"""

from __future__ import annotations

import re
from typing import Final

ID_PATTERN: Final = "[A-Za-z0-9_-]{1,256}"
"""An id that may be part of a key: of an account, a session or a project."""
_FILE_PATTERN: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\.enc"
_KEY_MAX: Final = 1024  # bytes, the most that S3 takes
_SEGMENT_MAX: Final = 255  # bytes, the longest name of a file
# No hidden names: `.` and `..`, and unfinished uploads.
_PUBLIC: Final = re.compile(rf"public/users/{ID_PATTERN}(?:/(?!\.)[^/\\\x00-\x1f\x7f]+)+")
_PRIVATE: Final = re.compile(
    rf"(?:sessions/{ID_PATTERN}/attachments|sessions/{ID_PATTERN}/avatar|projects/{ID_PATTERN}/avatar)/{_FILE_PATTERN}"
)
_OWNER: Final = re.compile(rf"(?:public/users|sessions|projects)/{ID_PATTERN}/")
_PREFIX: Final = re.compile(rf"{_OWNER.pattern}|(?:sessions|projects)/{ID_PATTERN}/avatar/")
_ENCRYPTED_NAME: Final = re.compile(_FILE_PATTERN)
_ATTACHMENT: Final = re.compile(rf"(sessions/{ID_PATTERN})/attachments/({_FILE_PATTERN})")
_ATTACHMENT_ON_DISK: Final = re.compile(rf"attachments/(sessions/{ID_PATTERN})/({_FILE_PATTERN})")


class InvalidKey(ValueError):
    """A key or prefix that is none; the text names it."""


def is_key(key: str) -> bool:
    """Return whether a file may be stored under this name."""
    if _PRIVATE.fullmatch(key):
        return True
    if not _PUBLIC.fullmatch(key):
        return False
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return False
    return len(encoded) <= _KEY_MAX and all(len(segment) <= _SEGMENT_MAX for segment in encoded.split(b"/"))


def is_public_key_of(account_id: str, key: str) -> bool:
    """Return whether `key` is that of a public file of this account."""
    return is_key(key) and key.startswith(f"public/users/{account_id}/")


def is_encrypted_name(name: str) -> bool:
    """Return whether `name` is the last part of an attachment's or a picture's key: `<uuid>.enc`."""
    return _ENCRYPTED_NAME.fullmatch(name) is not None


def is_picture(key: str) -> bool:
    """Return whether `key` is that of a picture of a session or project."""
    return "/avatar/" in key and _PRIVATE.fullmatch(key) is not None


def check(key: str) -> None:
    """Raise InvalidKey unless `key` is one."""
    if not is_key(key):
        raise InvalidKey(f"{key!r:.200} is not the key of a file")


def check_prefix(prefix: str) -> None:
    """Raise InvalidKey unless `prefix` names everything of one account, session or project, or its pictures."""
    if not _PREFIX.fullmatch(prefix):
        raise InvalidKey(f"{prefix!r:.200} is not the beginning of keys")


def is_owner(prefix: str) -> bool:
    """Return whether `prefix` is what all keys of one session, project or account begin with."""
    return _OWNER.fullmatch(prefix) is not None


def prefix_of(key: str) -> str:
    """Return the beginning that all keys of the same session, project or account have."""
    return "/".join(key.split("/")[: 3 if key.startswith("public/") else 2]) + "/"


def owner_of(prefix: str) -> tuple[str, str]:
    """Return the table and the id of the account, session or project whose keys begin with `prefix`."""
    top, *_, owner, _ = prefix.split("/")
    return ("accounts" if top == "public" else top), owner


def disk_path(key: str) -> str:
    """Return where the file lies, relative to the data folder: `files/…` or `attachments/…`. Raises InvalidKey."""
    check(key)
    if key.startswith("public/"):
        return f"files/{key}"
    attachment = _ATTACHMENT.fullmatch(key)
    return f"attachments/{key}" if attachment is None else f"attachments/{attachment[1]}/{attachment[2]}"


def key_at(path: str) -> str | None:
    """Return the key of the file at such a path, None if no key leads there."""
    attachment = _ATTACHMENT_ON_DISK.fullmatch(path)
    if attachment is not None:
        return f"{attachment[1]}/attachments/{attachment[2]}"
    top, _, key = path.partition("/")
    is_public = key.startswith("public/")
    if top != ("files" if is_public else "attachments") or not is_key(key) or disk_path(key) != path:
        return None
    return key
