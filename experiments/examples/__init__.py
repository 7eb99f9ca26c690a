"""Examples: one script of 20 to 40 lines per job, with small defaults that run on two CPU cores.

Run one with `python -m flex_judge.experiments.examples.NAME`, or copy it. May import public names only.
"""
