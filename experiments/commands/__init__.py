"""Commands of `flex-judge`, one folder each, usually with the modules `config`, `run` and `view`.

May import `common`. `flex_judge.experiments.cli` imports a command only when it is called.
"""
