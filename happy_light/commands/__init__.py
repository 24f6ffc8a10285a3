"""The commands of `happy-server-light`, a file each: `add` describes its arguments, `run` does it."""
