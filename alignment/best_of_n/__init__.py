"""Best-of-N: choosing the best sample, successive halving, and pass@N metrics.

May import judges and reward.
"""
