"""Curation: a teacher's judgments filtered and selected into training examples for a judge.

May import data, preferences, reporting and tasks.
"""
