"""Which servers are on this host, and which GPU is whose."""
