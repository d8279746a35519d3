"""The classifier that people use, and how it is kept."""
