"""What the adapters to trainers share: rows, a local judge, logs of a training run.

May import client, groups and types; no server.
"""
