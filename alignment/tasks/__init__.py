"""Tasks with verifiable answers, for measuring judges and policies.

May import judges only.
"""
