"""Shared code of `flex-judge sft`, `dpo` and `grpo`: flags, run folder, settings.

May import alignment; no command.
"""
