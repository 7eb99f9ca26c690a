"""`flex-judge sft`: train a judge from a base model."""
