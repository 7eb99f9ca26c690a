"""What commands and studies share: flags, console, run folders, reporting.

May import the packages below; no command and no study.
"""
