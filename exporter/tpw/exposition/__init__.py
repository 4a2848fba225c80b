"""What the world sees: the catalogue of metrics, snapshot -> families -> pages, and the HTTP server."""
