"""What `flex-judge sft`, `dpo` and `grpo` share: flags, run folder, settings.

May import alignment; no command.
"""
