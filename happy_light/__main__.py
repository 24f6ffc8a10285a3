"""`python -m happy_light` is the same as `happy-server-light`."""

from happy_light.cli import main

if __name__ == "__main__":
    main()
