"""Whole jobs, as the commands do them, to be called from Python."""
