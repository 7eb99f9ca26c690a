"""Shared code of commands and studies: flags, console, run folders, reporting.

May import the packages below; no command and no study.
"""
