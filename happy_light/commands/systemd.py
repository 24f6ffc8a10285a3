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

_SYSTEM = """\
# A user of its own, made by systemd; it owns /var/lib/happy-server-light and nothing else.
DynamicUser=yes
StateDirectory=happy-server-light
StateDirectoryMode=0700
Environment=HAPPY_SERVER_LIGHT_DATA_DIR=%S/happy-server-light
# Secrets and further settings, one NAME=value a line; the file may be missing.
EnvironmentFile=-/etc/happy-server-light.env
ProtectSystem=strict
ProtectHome=yes
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

_OF_INSTANCE = ("port", "metrics_port")
"""Settings that a template sets by the name of the instance."""
_INSTANCE = """\
# All instances are one user, so that they may share the folder and a port.
User=happy-server-light
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
    print(unit(settings, program, arguments.system, arguments.template), end="")
    if arguments.template:
        steps = [
            "happy-server-light systemd --template | sudo tee /etc/systemd/system/happy-server-light@.service",
            "sudo systemctl daemon-reload && sudo systemctl enable --now happy-server-light@{3005,3006}",
        ]
    elif not arguments.system:
        steps = [
            "happy-server-light systemd > ~/.config/systemd/user/happy-server-light.service",
            "systemctl --user daemon-reload && systemctl --user enable --now happy-server-light",
            "loginctl enable-linger    # keeps it running while nobody is signed in",
        ]
    else:
        steps = [
            "happy-server-light systemd --system | sudo tee /etc/systemd/system/happy-server-light.service",
            "sudo systemctl daemon-reload && sudo systemctl enable --now happy-server-light",
        ]
    print("\n".join(["Install it with:", *(f"  {step}" for step in steps)]), file=sys.stderr)
    if (arguments.system or arguments.template) and program[0].startswith(("/home/", "/root/")):
        print(
            f"A system service cannot read {program[0]}; install the program outside of home folders first "
            "(pipx install --global, or a venv in /opt).",
            file=sys.stderr,
        )


def unit(settings: Settings, program: list[str], system: bool, template: bool = False) -> str:
    """Return the unit. Settings given as flags go into its command line; others stay where they are set.

    In a template, the name after the @ is the port, and each process has a metrics port of its own.
    """
    flags: list[str] = []
    for row in config.SETTINGS:
        if settings.origins.get(row.name) == row.option and not (template and row.name in _OF_INSTANCE):
            flags += [row.option, config.display(row, getattr(settings, row.name))]
    # A port below 1024 needs a capability that a dynamic user does not have.
    capabilities = "CAP_NET_BIND_SERVICE" if 0 < settings.port < 1024 else ""
    name = f"happy-server-light{'@' if template else ''}.service"
    hardening = _SYSTEM.format(capabilities=capabilities) if system or template else _USER
    if template:
        hardening = hardening.replace("DynamicUser=yes\n", f"DynamicUser=yes\n{_INSTANCE}")
    return _UNIT.format(
        where=f"/etc/systemd/system/{name}" if system or template else f"~/.config/systemd/user/{name}",
        start=" ".join(map(_quote, [*program, "serve", *flags])),
        hardening=hardening + _HARDENING,
        target="multi-user.target" if system or template else "default.target",
    )


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
