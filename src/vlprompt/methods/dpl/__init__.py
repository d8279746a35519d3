"""DPL, Differentiable Prompt Learning: settings, search stage, train stage."""
