"""Training of a judge: examples as tokens, evaluation on held-out judgments, the trainer, the model card.

May import curation, policy_training, reporting and training.
"""
