"""Studies: experiments with a report of their own, run with `python -m`.

May import commands.
"""
