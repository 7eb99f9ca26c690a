"""Reading and writing of comparisons and judgments, crash-safe JSON lines files, and what HTTP clients share.

May import types, media and rubrics, but no engine.
"""
