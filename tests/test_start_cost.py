"""What makes a start quick and small: keys are derived ahead, and what is rarely used is not imported."""

from __future__ import annotations

from pathlib import Path

from happy_light import config
from happy_light.auth.keys import Keys
from happy_light.server import Server


async def test_keys_derived_ahead_are_used_unless_their_secret_is_not_the_one(tmp_path: Path) -> None:
    """The key is derived while the server is imported, from a secret that is not written yet, or read too early."""
    settings = config.load({}, {"data_dir": str(tmp_path), "port": "0", "metrics_enabled": "false"}, tmp_path / "none")
    made, other = Keys("made ahead"), Keys("of somebody else")
    for ahead, used in ((made, True), (made, True), (other, False)):
        ahead.begin_warm()
        server = Server(settings, ahead)
        await server.start()
        assert settings.secret_file.read_text() == server.keys.secret == "made ahead"
        assert server.keys.check_value() == made.check_value()
        assert (server.keys is ahead) is used
        await server.close()
