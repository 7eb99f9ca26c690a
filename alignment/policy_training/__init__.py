"""DPO and GRPO of a policy with TRL's trainers, and its evaluation before and after.

May import best_of_n, data, preferences, tasks, training and reward.
"""
