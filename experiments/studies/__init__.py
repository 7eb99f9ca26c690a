"""Studies: experiments with a report of their own, run by `python -m`.

May import commands.
"""
