"""Data sets of any size through policies and judges: in shards, in parallel on Ray Data, resumable.

May import best_of_n, data, policies and preferences, and the service in reward.
"""
