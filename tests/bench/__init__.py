"""What the daemon weighs. ``python -m bench`` (see :mod:`bench.__main__`)."""
