"""What runs in the actors of Ray Serve, and between them."""

VARIABLE = "FLEX_JUDGE_CLUSTER"
"""Environment variable that marks every process of a local Ray."""
