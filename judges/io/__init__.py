"""Files of comparisons and judgments, and crash-safe JSON lines.

May import types, media and rubrics; no engine.
"""
