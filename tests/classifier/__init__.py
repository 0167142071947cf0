"""Classifiers: fine-tuned, from scratch, probed."""
