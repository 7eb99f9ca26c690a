"""What runs over data sets share: settings, the run itself, its summary.

May import alignment; no command.
"""
