"""tpw-exporter: tokens per watt and cost per token of inference servers, for Prometheus."""

__version__ = "0.1.0"
