"""The books on disk: SQLite, written once per tick, read once at start."""
