"""The page: photos dropped in a browser, classes by name, training on the spot."""
