"""`flex-judge serve`: the reward service in the foreground."""
