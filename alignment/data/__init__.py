"""Prompts and their sources: files and data sets of any size, read by row range.

May import judges, but no policy and no reward.
"""
