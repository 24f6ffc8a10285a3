"""happy-server-light: a Happy server in one Python process."""

__version__ = "0.1.0"
