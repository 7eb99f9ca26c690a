"""Semaphores, task groups and the background event loop that all packages share.

May import errors only.
"""
