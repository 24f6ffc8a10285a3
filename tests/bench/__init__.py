"""The project's own benchmark: `make bench`."""
