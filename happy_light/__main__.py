"""`happy-server-light`, and `python -m happy_light`: where the program begins."""

import signal

# Python would answer Ctrl-C with a traceback while the rest is still being imported.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from happy_light.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
