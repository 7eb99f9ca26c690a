"""Shared code of the trainer adapters: row conversion, in-process judge, metrics of a training run.

May import client, groups and types; no server.
"""
