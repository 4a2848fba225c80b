"""Exposition: the catalogue of metrics, snapshot -> families -> pages, the status API and the HTTP server."""
