"""tpw-exporter: how many tokens each watt makes, and what each token costs at the electricity price in force."""

__version__ = "0.1.0"
