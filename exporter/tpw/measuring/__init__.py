"""One account of a run, and a sweep over the load of a server: ``tpw-exporter measure``. The daemon never loads it.

``account`` subtracts two readings of the status; ``load`` sends requests to a server; ``sweep`` measures it at rising
concurrency; ``show`` prints and draws. Everything is a pure function but ``load``.
"""
