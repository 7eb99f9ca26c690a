"""Command line, benchmarks, studies and recipes.

May import the packages judges, reward and alignment; none of those imports this one.
"""
