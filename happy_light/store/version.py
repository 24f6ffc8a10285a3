"""The version of the schema, whatever the engine."""

from typing import Final

SCHEMA_VERSION: Final = 7
