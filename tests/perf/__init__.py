"""Performance evidence: seeded simulations and measurements of single design decisions.

`python -m tests.perf NAME` runs one of them with the flags and the output of `flex-judge bench`. The tests in this
folder run the simulations and assert their goals. No test asserts a time.
"""
