"""OpenRLHF's remote reward model: `--reward.remote_url http://HOST:8000/get_reward`, with its trainer unchanged.

OpenRLHF (0.11) posts `{"query": [prompt + response], "prompts": [...], "labels": [...]}`, one sample in a request, the
texts with the tokens of the chat template; it waits 180 s and tries five times, a second apart. It takes `rewards` for
the advantages, `scores` (0 to 1) for dynamic filtering, and turns `extra_logs` into tensors. It has no word for a
completion without a reward: null in any of the three ends its run, where NaN would poison a whole batch. So a failure
puts null into `rewards` and `scores`, and `extra_logs` holds only figures that there are whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from flex_judge.judges.judgments import Status
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.reward.groups.rewards import scale_score
from flex_judge.reward.server.auth import parse_strict_json
from flex_judge.reward.server.decoding import Take, decode_sample, expect_text
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import Reward, Sample

LABEL_FIELDS = ("prompt", "images", "baseline", "group", "rubric")
"""What a label that is an object may hold for the judge."""


class OpenRlhfRow:
    """One sample of a request, its texts taken apart."""

    def __init__(self, query: str, prompt: str, label: Any, number: int, end_of_turn: Sequence[str]) -> None:
        """Raises:
        FieldError: the query does not begin with its prompt, or the label holds something of ours that is wrong.
        """
        if not query.startswith(prompt):
            raise FieldError.at_field(
                f"query[{number}]",
                f"does not begin with prompts[{number}]; was the prompt cut to fit, or changed by the tokenizer?",
            )
        self.field = f"labels[{number}]"
        told = _parse_label(label, self.field)
        rubric = told.pop("rubric", None)
        self.rubric = None if rubric is None else expect_text(rubric, f"{self.field}.rubric")
        """The rubric of this sample, if it has one of its own."""
        self._row = {"prompt": prompt, **told, "response": strip_end_of_turn(query[len(prompt) :], end_of_turn)}

    def build_sample(self, media: Take) -> Sample:
        """The sample; `media` is as for `wire.sample_from_json`."""
        return decode_sample(self._row, self.field, media)


def strip_end_of_turn(text: str, tokens: Sequence[str]) -> str:
    """A response without the tokens that end its turn, and without what white space stands around those."""
    kept = end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((t for t in tokens if t and text.endswith(t, 0, end)), None)
        if token is None:
            return text[:kept]
        kept = end = end - len(token)


def build_response(rewards: Sequence[Reward], rubrics: Sequence[Rubric]) -> dict[str, Any]:
    """What OpenRLHF is told; every list has one value per sample."""
    return {
        "rewards": [reward.value for reward in rewards],
        "scores": [_scale_to_unit(reward, rubric) for reward, rubric in zip(rewards, rubrics, strict=True)],
        "extra_logs": {name: [figure(reward) for reward in rewards] for name, figure in _FIGURES.items()},
    }


def _make_status_metric(status: Status) -> Callable[[Reward], float]:
    return lambda reward: float(reward.status == status)


_FIGURES: dict[str, Callable[[Reward], float]] = {
    **{f"judge_{status}": _make_status_metric(status) for status in Status},
    "judge_comparisons": lambda reward: float(reward.judgments),
    "judge_tokens": lambda reward: float(reward.usage.generated_tokens),
    "judge_group_size": lambda reward: float(reward.group.size),
    "judge_group_whole": lambda reward: float(reward.group.is_complete and not reward.group.late),
}
"""What is logged: numbers that every sample has, scored or not, so that the names are the same in every answer."""


def _scale_to_unit(reward: Reward, rubric: Rubric) -> float | None:
    """The score from 0 to 1; None without one."""
    score = reward.score if reward.expected is None else reward.expected
    return None if reward.value is None or score is None else scale_score(score, rubric)


def _parse_label(label: Any, field: str) -> dict[str, Any]:
    """What a label holds for the judge: nothing, unless it is a JSON object or the text of one."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            label = parse_strict_json(label, field)
        except FieldError:  # braces begin other things too: TeX, code, templates
            return {}
    if not isinstance(label, dict):
        return {}
    for name in label:  # which may have fields of its own, but a slip must not drop the images in silence
        near = get_close_matches(name.lower(), LABEL_FIELDS, n=1, cutoff=0.9)
        if near and name not in LABEL_FIELDS:
            raise FieldError.at_field(f"{field}.{name:.60}", f"unknown field; did you mean {near[0]!r}?")
    return {name: label[name] for name in LABEL_FIELDS if label.get(name) is not None}
