"""The page of examples: the scripts of `experiments/examples` and their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "examples"
ORDER = (
    "judge_answer",
    "own_rubric",
    "judge_image",
    "serve_and_ask",
    "best_of_n",
    "preferences_to_dpo",
    "grpo_with_trl",
    "evaluate_judge",
)
"""The scripts in reading order. A script that is not listed comes last."""


def generate() -> str:
    """Write one section per script: what it shows, how to run it, and its code."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    return "\n".join(_describe_script(name) for name in sorted(names, key=_get_position))


def _get_position(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _describe_script(name: str) -> str:
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    title, _, about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
    code = source.partition('"""')[2].partition('"""')[2].strip()
    return (
        f"## {title.rstrip('.')} {{ #{name} }}\n\n{about}\n\n"
        f"```bash\npython -m flex_judge.experiments.examples.{name}\n```\n\n"
        f'```python title="experiments/examples/{name}.py"\n{code}\n```\n'
    )
