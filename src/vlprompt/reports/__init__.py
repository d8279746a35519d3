"""Pages and plots of trained classifiers, and what all pages share."""
