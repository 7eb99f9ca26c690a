"""Transformers engine: dynamic batching with left padding, media included.

May import models and media. `engine` is loaded by name from `flex_judge.judges.engines`.
"""
