"""Integrate, attribute, price, book. Pure functions on frozen data; no clock, no thread, no I/O.

``advance(books, tick, policy) -> books`` (:mod:`tpw.ledger.advance`) is the only writer, except for prices that arrive
late. Its steps, one module each:

- :mod:`tpw.ledger.metering`: which joules of a meter are accepted.
- :mod:`tpw.ledger.counting`: by how many tokens a server's counters rose.
- :mod:`tpw.ledger.attribution`: which servers and states share a GPU's time.
- :mod:`tpw.ledger.host`: which part of the host's energy enters the facility boundary.
- :mod:`tpw.ledger.booking`: time, joules and money into rows and postings.
- :mod:`tpw.ledger.rows`: what was served in each row, open rows, prices that arrive late.
- :mod:`tpw.ledger.window`: the live ratios.
"""
