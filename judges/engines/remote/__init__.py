"""Remote engine: a judge model that the user's own inference server runs, reached over HTTP with token ids.

Needs httpx and the model's tokenizer; loads no weights.
"""
