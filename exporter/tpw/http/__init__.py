"""The HTTP client of every source and of ``top``, secrets from files, and answers of Prometheus.

Importing this package loads nothing. ``messages`` has requests, answers and what a status means; ``secrets`` the grammar of
secret files; ``client`` a kept connection to one server; ``fetch`` one request to any address; ``prometheus`` queries.
"""
