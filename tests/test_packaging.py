"""What is shipped beside the code: the manual page, the versions of the image, the container's settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from happy_light import __version__, config
from tests.lowest import requirements
from tools import lock, man_page

ROOT = Path(__file__).parent.parent
TESTING = {"aiohttp", "pytest", "pytest-asyncio"}  # of the extra for tests of clients


def test_the_manual_page_is_current() -> None:
    assert (man_page.FOLDER / "happy-server-light.1").read_text("utf-8") == man_page.manual(), "run `make man`"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_page_has_no_errors() -> None:
    page = man_page.FOLDER / "happy-server-light.1"
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-K", "utf8", str(page)], check=True, capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if "cannot break" not in line and "can't break" not in line] == []
    assert "happy-server-light accounts sign-out ACCOUNT" in re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout)


def test_the_image_installs_what_is_allowed() -> None:
    locked = dict(line.split("==") for line in lock.TARGET.read_text().split() if "==" in line)
    for requirement in requirements():
        if requirement.marker is None and requirement.name in locked:
            assert requirement.specifier.contains(locked[requirement.name]), requirement
    names = {name.replace("_", "-") for name in locked}
    assert {requirement.name.lower() for requirement in requirements() if requirement.name not in TESTING} <= names


def test_the_container_is_given_settings_that_there_are() -> None:
    known = {name for row in config.SETTINGS for name in row.env}
    dockerfile, compose = (ROOT / "Dockerfile").read_text(), (ROOT / "compose.yml").read_text()
    given = set(re.findall(r"^\s+(?:ENV )?([A-Z][A-Z0-9_]+)[:=]", dockerfile + compose, re.MULTILINE))
    assert given - {"PYTHONUNBUFFERED"} <= known
    assert {"HAPPY_SERVER_LIGHT_DATA_DIR", "HOST", "PUBLIC_URL", "HAPPY_SERVER_LIGHT_BACKUP_DIR"} <= given


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_links_of_the_readme_lead_somewhere_here_and_on_the_package_index() -> None:
    """The index shows the README alone: a link into the repository has to become one to where that is published."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") < 200
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / link).is_file(), link
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    shown = text
    for substitution in hook["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(substitution["pattern"], substitution["replacement"], shown)
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(links) > 10 and all(link.startswith("https://") for link in links), links
    assert "](https://raw.githubusercontent.com/happy-server-light/happy-server-light/main/docs/images/" in shown
