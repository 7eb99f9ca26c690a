"""Policy training: DPO and GRPO with TRL's trainers, and evaluation before and after training.

May import best_of_n, data, preferences, tasks, training and reward.
"""
