"""The HTTP server of a tuned classifier."""
