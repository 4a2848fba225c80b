"""The heart: integrate, attribute, price, book. Pure functions on frozen data; no clock, no thread, no I/O.

``advance(books, tick, policy) -> books`` (:mod:`tpw.ledger.advance`) is the only writer. Its steps, one module each:

- :mod:`tpw.ledger.metering`: which joules of a meter are believed.
- :mod:`tpw.ledger.counting`: how many tokens a server's counters rose by, series by series.
- :mod:`tpw.ledger.attribution`: whose time a GPU's time was, and in which state.
- :mod:`tpw.ledger.booking`: time, joules and money into postings.
- :mod:`tpw.ledger.window`: the live ratios.
"""
