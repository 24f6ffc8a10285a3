"""`systemd`: print a unit that runs the server with the settings given as flags."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from happy_light import config
from happy_light.commands.command import Command
from happy_light.config import Settings

_UNIT = """\
# {where}
[Unit]
Description=Happy server (light)
Documentation=https://happy.engineering
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={start}
# Opens the log file again, and loads a certificate that changed.
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
# 2: a setting has to be changed first, so that starting again would not help.
RestartPreventExitStatus=2
# A migration of a large database may take long; a stop does not.
TimeoutStartSec=infinity
TimeoutStopSec=10
LimitNOFILE=65536
UMask=0077
{hardening}

[Install]
WantedBy={target}
"""

_HARDENING = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""

_OF_SYSTEMD = """\
# A user of its own, made by systemd; it owns these folders below /var/lib and nothing else.
DynamicUser=yes
"""
_ONE_USER = """\
# All instances are one user, so that they may share the folder and a port.
User=happy-server-light
"""
_OWN_USER = f"""\
{_OF_SYSTEMD}StateDirectory=happy-server-light happy-server-light-backups
StateDirectoryMode=0700
Environment=HAPPY_SERVER_LIGHT_DATA_DIR=%S/happy-server-light
"""

_SYSTEM = """\
{user}{folders}# Secrets and further settings, one NAME=value a line; the file may be missing.
EnvironmentFile=-/etc/happy-server-light.env
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
"""

_USER_NAME = "happy-server-light"
_HOMES = ("/home/", "/root/", "/run/user/")
"""Folders that ProtectHome= hides."""
_CREDENTIALS = {"tls_cert", "tls_key"}
"""Settings whose files often only root can read."""
_OF_INSTANCE = ("port", "metrics_port")
"""Settings that a template sets by the name of the instance."""
_INSTANCE = """\
# The instance is named after its port; happy-server-light@3005 has its metrics at port 13005.
Environment=PORT=%i
Environment=METRICS_PORT=1%i
"""

_USER = """\
# Secrets and further settings, one NAME=value a line; the file may be missing.
EnvironmentFile=-%E/happy-server-light/environment
"""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", action="store_true", help="for the whole computer instead of this user")
    parser.add_argument(
        "--template", action="store_true",
        help="for the whole computer, and for several processes: happy-server-light@3005, happy-server-light@3006, …",
    )  # fmt: skip


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the unit; how to install it goes to stderr, so that stdout can be redirected to a file."""
    program = _program()
    system, template = arguments.system or arguments.template, arguments.template
    print(unit(settings, program, system, template), end="")
    again = shlex.join(["happy-server-light", *sys.argv[1:]])
    if system:
        name = f"happy-server-light{'@' if template else ''}"
        steps = [
            *_made_by_hand(settings, template),
            f"{again} | sudo tee /etc/systemd/system/{name}.service",
            f"sudo systemctl daemon-reload && sudo systemctl enable --now {name}{'{3005,3006}' if template else ''}",
        ]
    else:
        steps = [
            "mkdir -p ~/.config/systemd/user",
            f"{again} > ~/.config/systemd/user/happy-server-light.service",
            "systemctl --user daemon-reload && systemctl --user enable --now happy-server-light",
            "loginctl enable-linger    # keeps it running while nobody is signed in",
        ]
    print("\n".join(["Install it with:", *(f"  {step}" for step in steps)]), file=sys.stderr)
    if system and program[0].startswith(_HOMES):
        print(
            f"A system service cannot read {program[0]}; install the program outside of home folders first "
            "(pipx install --global, or a venv in /opt).",
            file=sys.stderr,
        )


def unit(settings: Settings, program: list[str], system: bool, template: bool = False) -> str:
    """Return the unit. Settings given as flags go into its command line; others stay where they are set.

    In a template, which is a system unit, the name after the @ is the port, and each process has a metrics port of its
    own.
    """
    start = [_quote(word) for word in [*program, "serve"]]
    for row in _flags(settings, template):
        shown = _quote(config.display(row, getattr(settings, row.name)))
        if system and row.name in _CREDENTIALS:
            shown = f"${{CREDENTIALS_DIRECTORY}}/{row.name}"
        start += [row.option, shown]
    name = f"happy-server-light{'@' if template else ''}.service"
    return _UNIT.format(
        where=f"/etc/systemd/system/{name}" if system else f"~/.config/systemd/user/{name}",
        start=" ".join(start),
        hardening=(_system(settings, template) if system else _USER) + _HARDENING,
        target="multi-user.target" if system else "default.target",
    )


def _system(settings: Settings, template: bool) -> str:
    """Return the part of a system unit about its user and what that may read and write."""
    written = _written(settings, template)
    given = {row.name for row in _flags(settings, template)}
    read = [settings.ui_dir] if settings.ui_dir is not None and "ui_dir" in given else []
    lines = []
    for name in _CREDENTIALS & given:
        lines.append(f"LoadCredential={name}:{_path(getattr(settings, name))}")
    if lines:
        lines = ["# Copies that the user of the service can read; after a renewal: systemctl restart.", *sorted(lines)]
    hidden = any(str(path).startswith(_HOMES) for path in [*written, *read])
    for path in written:
        lines.append(f"{'BindPaths' if str(path).startswith(_HOMES) else 'ReadWritePaths'}={_path(path)}")
    for path in read:
        if str(path).startswith(_HOMES):
            lines.append(f"BindReadOnlyPaths={_path(path)}")
    user = _OWN_USER
    if written:  # what a user of systemd's making has written belongs to nobody afterwards
        user = user.replace(_OF_SYSTEMD, f"User={_USER_NAME}\nGroup={_USER_NAME}\n")
    elif template:
        user = user.replace(_OF_SYSTEMD, f"{_OF_SYSTEMD}{_ONE_USER}")
    user += _INSTANCE if template else ""
    return _SYSTEM.format(
        user=user,
        folders="".join(f"{line}\n" for line in lines),
        home="tmpfs" if hidden else "yes",
        # A port below 1024 needs a capability that such a user does not have.
        capabilities="CAP_NET_BIND_SERVICE" if 0 < settings.port < 1024 else "",
    )


def _flags(settings: Settings, template: bool) -> list[config.Row]:
    """Return the settings that are flags of this command and become flags of the server."""
    return [
        row
        for row in config.SETTINGS
        if settings.origins.get(row.name) == row.option and not (template and row.name in _OF_INSTANCE)
    ]


def _written(settings: Settings, template: bool) -> list[Path]:
    """Return the folders of the flags that the server writes to, without those in others of them."""
    given = {row.name for row in _flags(settings, template)}
    found = [getattr(settings, name) for name in ("data_dir", "files_dir", "backup_dir") if name in given]
    if isinstance(settings.database_url, Path) and "database_url" in given:
        found.append(settings.database_url.parent)
    if settings.log_file is not None and "log_file" in given:
        found.append(settings.log_file.parent)
    if settings.backup_every is not None and settings.backup_dir is None and "data_dir" in given:
        found.append(settings.backups)
    folders = {Path(path).absolute() for path in found}
    return sorted(path for path in folders if folders.isdisjoint(path.parents))


def _made_by_hand(settings: Settings, template: bool) -> list[str]:
    """Return the commands that make the user and the folders of a system unit with folders of its own."""
    written = _written(settings, template)
    if not written:
        return []
    user = f"sudo useradd --system --shell /usr/sbin/nologin --home-dir /nonexistent {_USER_NAME}"
    folders = shlex.join(
        ["sudo", "install", "-d", "-m", "0700", "-o", _USER_NAME, "-g", _USER_NAME, *map(str, written)]
    )
    return [user, folders]


def _path(path: Path) -> str:
    """Return a path for a line of a unit."""
    return str(path.absolute()).replace("%", "%%").replace(" ", "\\x20")


def _quote(word: str) -> str:
    """Quote a word for ExecStart=, where %, $ and quotes have a meaning."""
    word = word.replace("%", "%%").replace("$", "$$")
    if shlex.quote(word) == word or word.replace("%", "").isalnum():
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _program() -> list[str]:
    """Return the command that starts this installation."""
    found = shutil.which(sys.argv[0])
    if found and Path(found).name == "happy-server-light":
        return [str(Path(found).absolute())]
    return [sys.executable, "-m", "happy_light"]


command = Command(
    name="systemd",
    help="print a systemd unit, for this user or (--system) for the whole computer",
    run=run,
    add=_add,
    all_flags=True,
)
