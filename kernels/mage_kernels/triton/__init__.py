"""Triton, one operation a file: kernel, launch as a torch operator, shapes for tracing, gradient, FLOP formula."""
