"""Token counts of real servers: what their answers report, what they count, what is read of both (``make conformance``)."""
