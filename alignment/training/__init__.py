"""What the training of judges and of policies share: recipes, cards, trainable parameters, weights.

May import best_of_n, reporting and the reward types.
"""
