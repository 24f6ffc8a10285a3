"""`systemd`: units that systemd takes, that can use the folders and files of their flags, and how to install them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from happy_light import config
from happy_light.commands.systemd import unit
from tests.test_start import command

PROGRAM = str(Path(sys.executable).absolute())


def made(*arguments: str, **environ: str) -> tuple[list[str], list[str]]:
    """Return the lines of the unit, and the commands that install it."""
    ended = command(Path("/nonexistent"), "systemd", *arguments, **environ)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines(), [line.strip() for line in ended.stderr.splitlines()[1:] if line[:1] == " "]


def test_a_user_unit_has_the_flags_and_not_the_environment() -> None:
    unit, steps = made("--port", "4000", "--data-dir", "/srv/a b", HOST="0.0.0.0")
    assert f'ExecStart={PROGRAM} -m happy_light serve --data-dir "/srv/a b" --port 4000' in unit
    assert "Type=notify" in unit and "WantedBy=default.target" in unit and "0.0.0.0" not in str(unit)
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit
    assert steps[:2] == [
        "mkdir -p ~/.config/systemd/user",
        "happy-server-light systemd --port 4000 --data-dir '/srv/a b'"
        " > ~/.config/systemd/user/happy-server-light.service",
    ]


def test_a_system_unit_has_a_user_of_its_own() -> None:
    unit, steps = made("--system", "--port", "443", "--backup-every", "36h")
    assert f"ExecStart={PROGRAM} -m happy_light serve --port 443 --backup-every 36h" in unit
    assert {
        "WantedBy=multi-user.target", "DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes",
        "StateDirectory=happy-server-light happy-server-light-backups",
        "Environment=HAPPY_SERVER_LIGHT_DATA_DIR=%S/happy-server-light", "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    } <= set(unit)  # fmt: skip
    assert steps[0] == (
        "happy-server-light systemd --system --port 443 --backup-every 36h"
        " | sudo tee /etc/systemd/system/happy-server-light.service"
    )


def test_a_template_has_an_instance_for_each_port() -> None:
    unit, _ = made("--template", "--port", "4000", "--log-level", "debug")
    assert f"ExecStart={PROGRAM} -m happy_light serve --log-level debug" in unit
    assert {
        "Environment=PORT=%i", "Environment=METRICS_PORT=1%i", "User=happy-server-light", "DynamicUser=yes",
        "Environment=HAPPY_SERVER_LIGHT_DATA_DIR=%S/happy-server-light", "WantedBy=multi-user.target",
    } <= set(unit)  # fmt: skip


def test_a_system_unit_can_write_to_other_folders() -> None:
    """A user that systemd makes for each start would not own what it wrote before."""
    unit, steps = made(
        "--system", "--data-dir", "/srv/happy", "--files-dir", "/srv/happy/files", "--log-file", "/var/log/happy/log",
        "--backup-every", "1d",
    )  # fmt: skip
    assert [line for line in unit if line.startswith("ReadWritePaths=")] == [
        "ReadWritePaths=/srv/happy", "ReadWritePaths=/srv/happy-backups", "ReadWritePaths=/var/log/happy"
    ]  # fmt: skip
    assert "User=happy-server-light" in unit and "DynamicUser=yes" not in unit
    assert steps[0].startswith("sudo useradd --system ") and steps[0].endswith(" happy-server-light")
    assert steps[1].startswith("sudo install -d -m 0700 -o happy-server-light -g happy-server-light ")
    assert steps[1].endswith(" /srv/happy /srv/happy-backups /var/log/happy")


def test_a_system_unit_sees_only_its_folders_of_a_home() -> None:
    unit, _ = made("--system", "--data-dir", "/home/me/data", "--ui-dir", "/home/me/a web", "--port", "4000")
    assert {"ProtectHome=tmpfs", "BindPaths=/home/me/data", r"BindReadOnlyPaths=/home/me/a\x20web"} <= set(unit)


def test_a_system_unit_can_read_a_certificate_of_root() -> None:
    unit, _ = made("--system", "--tls-cert", "/etc/tls/chain.pem", "--tls-key", "/etc/tls/key.pem")
    assert {"LoadCredential=tls_cert:/etc/tls/chain.pem", "LoadCredential=tls_key:/etc/tls/key.pem"} <= set(unit)
    flags = "--tls-cert ${CREDENTIALS_DIRECTORY}/tls_cert --tls-key ${CREDENTIALS_DIRECTORY}/tls_key"
    assert f"ExecStart={PROGRAM} -m happy_light serve {flags}" in unit
    assert "DynamicUser=yes" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize(
    ("form", "name", "flags"),
    [
        ("--system", "happy-server-light@3005", {"files_dir": "/srv/files", "log_level": "debug"}),
        ("--user", "happy-server-light", {"data_dir": "/srv/a b", "port": "4000"}),
        (
            "--system",
            "happy-server-light",
            {"port": "443", "tls_cert": "/etc/tls/a.pem", "tls_key": "/etc/tls/b.pem"},
        ),
        ("--system", "happy-server-light", {"data_dir": "/home/me/50% of it", "ui_dir": "/home/me/web"}),
    ],
)
def test_systemd_takes_the_units(tmp_path: Path, form: str, name: str, flags: dict[str, str]) -> None:
    file = tmp_path / f"{name}.service"
    settings = config.load({}, flags, tmp_path / "none")
    file.write_text(unit(settings, [PROGRAM, "-m", "happy_light"], form == "--system", "@" in name))
    judged = subprocess.run(
        ["systemd-analyze", form, "verify", str(file)],
        capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert f"{file.name}:" not in judged.stderr, judged.stderr
