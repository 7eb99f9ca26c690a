"""DPO and GRPO of a policy with TRL's trainers, and its evaluation before and after.

May import data, preferences, best_of_n and training.
"""
