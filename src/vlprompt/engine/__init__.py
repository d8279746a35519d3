"""A frozen backbone with prompts: one attention function for stock models. Knows no method."""
