"""Trainings compared: variants of a recipe, results of runs in one table, the demonstration."""
