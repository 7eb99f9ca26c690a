"""The command line, benchmarks, studies and recipes.

May import the three packages below: judges, reward and alignment.
"""
