"""Tasks with verifiable answers, to measure judges and policies with.

May import judges only.
"""
