"""Labelled images: sampling, readers, decoding and augmentation. Knows no model."""
