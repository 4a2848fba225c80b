"""The heart: integrate, attribute, price, book. Pure functions on frozen data; no clock, no thread, no I/O.

``advance(books, tick, policy) -> books`` (:mod:`tpw.ledger.advance`) is the only writer of all but prices that
arrive late. Its steps, one module each:

- :mod:`tpw.ledger.metering`: which joules of a meter are believed.
- :mod:`tpw.ledger.counting`: how many tokens a server's counters rose by, series by series.
- :mod:`tpw.ledger.attribution`: whose time a GPU's time was, and in which state.
- :mod:`tpw.ledger.host`: what of the host enters the facility boundary.
- :mod:`tpw.ledger.booking`: time, joules and money into rows and postings.
- :mod:`tpw.ledger.rows`: what was served in each row, which are open, prices that arrive late.
- :mod:`tpw.ledger.window`: the live ratios.
"""
