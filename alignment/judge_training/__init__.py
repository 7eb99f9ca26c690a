"""Judge training: tokenized examples, evaluation on held-out judgments, the trainer and the model card.

May import curation, policy_training, reporting and training.
"""
