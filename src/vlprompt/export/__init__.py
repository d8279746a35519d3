"""A tuned classifier in other formats."""
