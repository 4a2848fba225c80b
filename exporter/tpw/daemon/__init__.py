"""The daemon: polls every source once per interval, advances the ledger, writes the books and publishes a snapshot.

One thread ticks. Scans and feeds run on threads of their own and hand finished values to the next tick.
"""
