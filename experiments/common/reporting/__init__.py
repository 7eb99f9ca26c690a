"""Reports in the terminal, as HTML pages and as plots.

The report model itself is `flex_judge.alignment.reporting`. May import alignment; no command.
"""
