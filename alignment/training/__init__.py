"""Shared parts of judge and policy training: recipes, model cards, trainable parameters and weights.

May import best_of_n, reporting and the reward types.
"""
