"""Folders of models: written, read, converted from published checkpoints, and exported to them."""
