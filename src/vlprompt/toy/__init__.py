"""The built-in toy world: rendered pictures, eleven tasks and a small CLIP trained on them."""
