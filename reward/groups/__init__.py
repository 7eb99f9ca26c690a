"""Completions of one prompt judged together: matches, methods, group collector, rewards.

Free of Ray and of any web framework. May import types only.
"""
