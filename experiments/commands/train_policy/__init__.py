"""`flex-judge dpo` and `flex-judge grpo`: train a policy and evaluate it before and after."""
