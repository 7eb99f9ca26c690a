"""Reading and writing of comparisons and judgments, and crash-safe JSON lines files.

May import types, media and rubrics, but no engine.
"""
