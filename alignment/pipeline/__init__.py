"""Sampling and judging data sets of any size: sharded, parallel on Ray Data, resumable.

May import best_of_n, data, policies and preferences, and the service in reward.
"""
