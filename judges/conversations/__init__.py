"""Conversations: messages with tool calls and media, and the one reader that every entrance uses.

May import `errors`, `extras` and `media`; nothing of the protocol, so that a client without a model can read.
"""
