"""Training of a judge: examples as tokens, trainable parameters, evaluation on held-out judgments, the trainer."""
