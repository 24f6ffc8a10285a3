"""Settings: the table of all of them, the types of their values, and where values come from."""

from happy_light.config.settings import DEFAULT, FILE_NAME, SETTINGS, Row, Settings, load, shown, table

__all__ = ["DEFAULT", "FILE_NAME", "SETTINGS", "Row", "Settings", "load", "shown", "table"]
