"""Families of frozen backbones, each in a file; the only place that knows their module names."""
