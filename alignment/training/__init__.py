"""Rewards used to train: policies tuned with TRL on what the judge made, measured before and after."""
