"""Settings: the table of all of them, the types of their values, where values come from, and how they are shown."""

from happy_light.config.bucket import Bucket
from happy_light.config.loading import DEFAULT, FILE_NAME, load
from happy_light.config.names import misspelt
from happy_light.config.postgres_url import PostgresUrl
from happy_light.config.redis_url import RedisUrl
from happy_light.config.rendering import Entry, display, entries, markdown_table
from happy_light.config.settings import SETTINGS, Row, Settings

__all__ = [
    "DEFAULT",
    "FILE_NAME",
    "SETTINGS",
    "Bucket",
    "Entry",
    "PostgresUrl",
    "RedisUrl",
    "Row",
    "Settings",
    "display",
    "entries",
    "load",
    "markdown_table",
    "misspelt",
]
