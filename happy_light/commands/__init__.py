"""The commands of `happy-server-light`: each module has its `command` (see command.py)."""
