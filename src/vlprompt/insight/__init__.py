"""Why a prediction, and what a context says."""
