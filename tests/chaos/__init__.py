"""The real daemon under faults, and a judge that sees only what a scraper sees. ``make chaos``."""
