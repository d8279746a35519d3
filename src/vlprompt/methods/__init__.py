"""The methods: one file each, nothing to register."""

from vlprompt.methods.registry import all_methods, get_method

__all__ = ["all_methods", "get_method"]
