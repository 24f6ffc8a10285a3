"""`happy-server-light`, and `python -m happy_light`: where the program begins."""

import gc
import signal

# What is imported stays: to search it for cycles again and again takes 6 % of the CPU of a start.
gc.set_threshold(20_000, 20, 50)
# Python would answer Ctrl-C with a traceback while the rest is still being imported.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from happy_light.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
