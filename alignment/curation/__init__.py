"""Curation: filter and select a teacher's judgments into training examples for a judge.

May import data, preferences, reporting and tasks.
"""
