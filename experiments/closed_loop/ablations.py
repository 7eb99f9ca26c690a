"""`python -m experiments.closed_loop ablations`: what the number of judgments, the order of reasoning and answer, the
length of the reasoning, voting and budget forcing do to the embedded judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignment.sft.card import share
from experiments.closed_loop.card import FIGURES, figure
from experiments.closed_loop.exam import THINK_TOKENS, Paper, settings_of_exam
from experiments.closed_loop.judge import JudgeMaking, examined, sampled, taught_questions, tuned
from experiments.closed_loop.questions import sums
from experiments.run_folder import RunFolder
from judges import JudgeSettings
from judges.journal import write_text

HALF = 2
"""What is compared of the recipe is compared on half of the judgments, where there is room to differ."""
VOTES = (1, 3, 7, 15)
VOTING_TEMPERATURE = 0.7
WAITS = (1, 2, 4)
SHORT = 60
"""Single answers, and pairs, of the exam in which a judge votes or is made to wait: each is judged many times."""


@dataclass(frozen=True)
class Variant:
    """A judge that differs in one thing."""

    name: str
    recipe: JudgeMaking
    """How it is made."""
    judging: JudgeSettings
    """How it judges."""
    short: bool = False
    """Whether it sits the short exam."""


def variants(config: JudgeMaking) -> list[Variant]:
    """The whole recipe first, then each thing that is changed."""
    usual = settings_of_exam(config.reason_first)
    half = replace(config, size=max(2, config.size // HALF))
    quarter = replace(config, size=max(2, half.size // HALF))
    back = replace(half, reason_first=not config.reason_first)
    voting = replace(usual, temperature=VOTING_TEMPERATURE)
    return [
        *(Variant(f"{one.size} judgments", one, usual) for one in (config, half, quarter)),
        Variant(f"{half.size}, answer before the reasoning", back, settings_of_exam(back.reason_first)),
        Variant(f"{half.size} with the longest reasoning", replace(half, order="longest"), usual),
        Variant(f"{half.size} with the shortest reasoning", replace(half, order="shortest"), usual),
        *(Variant(f"{k} vote{'s' * (k > 1)}", config, replace(voting, votes=k), short=True) for k in VOTES),
        *(
            Variant(
                f"made to wait {k} time{'s' * (k > 1)}",
                config,
                replace(usual, waits=k, max_think_tokens=THINK_TOKENS * (k + 1)),
                short=True,
            )
            for k in (0, *WAITS)
        ),
    ]


def main(config: JudgeMaking) -> dict[str, Any]:
    """Make and examine the variants beside the judge itself, in the folder of its run.

    Returns:
        The summary, as written to `ablations/summary.json`.

    Raises:
        UsageError: the folder holds something else.
        JudgeError: what ended the run. The same run goes on from there.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with RunFolder(Path(config.out), settings) as folder:
        answers, exam_answers = sampled(config, folder)
        paper, taught = Paper.of(exam_answers, seed=config.seed), sums(taught_questions(config))
        short = Paper(paper.singles[:SHORT], paper.pairs[:SHORT], paper.swapped[:SHORT])
        out = folder.path / "ablations"
        rows = []
        for variant in variants(config):
            where = folder.path if variant.recipe == config else out / _slug(variant.name)
            adapter = tuned(variant.recipe, folder, answers, where)
            file = out / f"exam_{_slug(variant.name)}.jsonl"
            file.parent.mkdir(exist_ok=True)
            asked = short if variant.short else paper
            results = examined(folder, asked, taught, variant.judging, file, adapter)
            rows.append({"name": variant.name, **results.to_json()})
        summary = {**folder.settings, "variants": rows}
        write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_text(out / "table.md", table(summary))
        return summary


def table(summary: Mapping[str, Any]) -> str:
    """The figures of all variants, in Markdown."""
    lines = ["| | " + " | ".join(title.lstrip("- ") for title, _ in FIGURES) + " | asked |"]
    lines.append("|---" * (len(FIGURES) + 2) + "|")
    for row in summary["variants"]:
        asked = row["singles"]["asked"] + row["pairs"]["asked"]
        cells = [share(figure(row, path)) for _, path in FIGURES]
        lines.append(f"| {' | '.join([row['name'], *cells, str(asked)])} |")
    return "\n".join(lines) + "\n"


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
