"""Which servers are on this host, and which GPU is whose.

- :mod:`tpw.discovery.processes`: servers among the processes of this host, and the processes behind an address.
- :mod:`tpw.discovery.ownership`: the rule by which a server owns GPUs, as pure functions.
"""
