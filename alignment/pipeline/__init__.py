"""Data sets of any size through policies and judges: in shards, side by side on Ray Data, resumable."""
