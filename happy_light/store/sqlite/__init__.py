"""The SQLite engine: the only package that knows SQLite, besides the commands that are about the file."""
