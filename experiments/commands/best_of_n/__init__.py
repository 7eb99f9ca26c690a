"""`flex-judge best-of-n`: sample N answers to every prompt and keep the best."""
