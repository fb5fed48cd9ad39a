"""Evaluation: predictions, metrics and their names, conditions, Shapley values, readings."""
