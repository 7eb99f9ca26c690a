"""Rewards used to make models better: policies, best-of-N, preference pairs."""
