"""GRPO curves: what a served judge teaches a policy, step by step, and whether the judge stays right meanwhile."""
