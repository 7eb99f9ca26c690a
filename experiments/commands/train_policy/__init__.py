"""`flex-judge dpo` and `flex-judge grpo`: tune a policy and measure it before and after."""
