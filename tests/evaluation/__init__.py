"""Representation and pictures, measured."""
