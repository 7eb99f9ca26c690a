"""The commands of `flex-judge`, one folder each: `config`, `run` and `view`.

May import `common`; `flex_judge.experiments.cli` loads a command when it is called.
"""
