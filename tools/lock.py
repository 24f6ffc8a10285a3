"""Write packaging/newest.txt: the versions that the container image installs, the newest allowed ones (`make lock`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
TARGET: Final = ROOT / "packaging" / "newest.txt"
EXTRAS: Final = "full,github"
_HEAD: Final = "# Written by `make lock`: what pip takes for happy-server-light[{}], as constraints.\n"


def resolve() -> dict[str, str]:
    """Return the newest allowed version of everything that the package with its extras needs."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    done = subprocess.run([*command, f"{ROOT}[{EXTRAS}]"], check=True, capture_output=True, text=True)
    found = {
        item["metadata"]["name"].lower(): item["metadata"]["version"] for item in json.loads(done.stdout)["install"]
    }
    found.pop("happy-server-light")
    return found


def main() -> None:
    """Write the file."""
    lines = [f"{name}=={version}\n" for name, version in sorted(resolve().items())]
    TARGET.write_text(_HEAD.format(EXTRAS) + "".join(lines), "utf-8")


if __name__ == "__main__":
    main()
