"""The judge's own training: lessons as tokens, what of a model learns, the exam on held-out judgments, the trainer."""
