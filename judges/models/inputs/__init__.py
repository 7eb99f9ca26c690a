"""Media as model inputs: decoding, scaling and placeholder tokens.

May import media and the model profiles; no engine.
"""
