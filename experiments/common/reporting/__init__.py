"""Tables, figures and pages of a run.

May import metrics of alignment; no command.
"""
