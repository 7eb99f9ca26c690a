"""Shared code of runs over data sets: settings, execution, summary.

May import alignment; no command.
"""
