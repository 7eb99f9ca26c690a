"""Remote reward models for unchanged trainers: `POST /get_reward` for OpenRLHF, and `POST /rm` for slime.

OpenRLHF: `--reward.remote_url http://HOST:8000/get_reward`

OpenRLHF (0.11) posts `{"query": [prompt + response], "prompts": [...], "labels": [...]}`, one sample per request, with
the chat template's tokens in the texts. It waits 180 s and tries five times, one second apart. It uses `rewards` for
advantages and `scores` (0 to 1) for dynamic filtering, and converts `extra_logs` to tensors.

OpenRLHF has no value for an unscored completion: null in any of the three fields ends its run, while NaN would silently
spoil a whole batch. A failure therefore gives null in `rewards` and `scores`; `extra_logs` only holds numbers that
every sample has, such as `judge_invalid_input`: 1 for a sample that cannot be judged. The log names the reason.

slime: `--rm-type remote_rm --rm-url http://HOST:8000/rm`

slime posts `{"prompt": ..., "response": ..., "label": ...}` for each sample. The answer becomes the sample's reward, so
it is a number. slime waits 120 s and tries ten times. It has no value for an unscored completion either: null
ends its run at the next advantages. `flex_judge.reward.slime` leaves such a completion out of the loss instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.judgments import Status
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.reward.groups.rewards import scale_score
from flex_judge.reward.integrations.end_of_turn import strip_end_of_turn
from flex_judge.reward.server.auth import check_depth, parse_strict_json
from flex_judge.reward.server.decoding import expect_text
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import Reward

LABEL_FIELDS = ("prompt", "baseline", "group", "rubric", "view", *PROMPT_COLUMNS)
"""Fields of a label that the judge uses, if the label is an object."""


class LabelledRow:
    """One sample of a request: prompt, response and label."""

    def __init__(self, prompt: Any, response: str, label: Any, field: str, end_of_turn: Sequence[str]) -> None:
        """Read a sample. If a judge field of the label is invalid, the row has a problem.

        Args:
            prompt: the prompt, as text or messages; a prompt in the label replaces it.
            response: the response.
            label: label of the data set's row.
            field: name of the label in the request.
            end_of_turn: tokens to cut from the end of the response.
        """
        self.field = field
        self.rubric: str | None = None
        """Rubric of this sample; None uses the configured one."""
        self.json: dict[str, Any] = {"prompt": prompt}
        """The row as `decode_sample` takes it."""
        try:
            label_fields = _parse_label(label, field)
            rubric = label_fields.pop("rubric", None)
            self.json.update(label_fields)
            self.rubric = None if rubric is None else expect_text(rubric, f"{field}.rubric")
        except FieldError as e:
            self.reject(str(e))
        self.json["response"] = strip_end_of_turn(response, end_of_turn)

    def reject(self, problem: str) -> None:
        """Mark the row as one that cannot be judged."""
        self.json.setdefault("problem", problem)


def read_query(query: str, prompt: str, label: Any, index: int, end_of_turn: Sequence[str]) -> LabelledRow:
    """Read a sample of OpenRLHF. If its query does not begin with its prompt, the row has a problem.

    Args:
        query: prompt and response in one text.
        prompt: the prompt.
        label: label of the data set's row.
        index: index of the sample in the request.
        end_of_turn: tokens to cut from the end of the response.
    """
    begins_with_prompt = query.startswith(prompt)
    response = query[len(prompt) :] if begins_with_prompt else ""
    row = LabelledRow(prompt, response, label, f"labels[{index}]", end_of_turn)
    if not begins_with_prompt:
        problem = f"does not begin with prompts[{index}]; was the prompt truncated, or changed by the tokenizer?"
        row.reject(f"query[{index}]: {problem}")
    return row


def build_response(rewards: Sequence[Reward], rubrics: Sequence[Rubric]) -> dict[str, Any]:
    """Build OpenRLHF's response; every list has one value per sample."""
    return {
        "rewards": [reward.value for reward in rewards],
        "scores": [_scale_to_unit(reward, rubric) for reward, rubric in zip(rewards, rubrics, strict=True)],
        "extra_logs": {name: [metric(reward) for reward in rewards] for name, metric in _METRICS.items()},
    }


def _make_status_metric(status: Status) -> Callable[[Reward], float]:
    return lambda reward: float(reward.status == status)


_METRICS: dict[str, Callable[[Reward], float]] = {
    **{f"judge_{status}": _make_status_metric(status) for status in Status},
    "judge_comparisons": lambda reward: float(reward.judgments),
    "judge_tokens": lambda reward: float(reward.usage.generated_tokens),
    "judge_group_size": lambda reward: float(reward.group.size),
    "judge_group_whole": lambda reward: float(reward.is_whole),
}
"""Logged metrics. Scored and unscored samples have all of them, so that every response has the same names."""


def _scale_to_unit(reward: Reward, rubric: Rubric) -> float | None:
    """Scale a reward's score to 0..1; None without a score."""
    score = reward.best_score
    return None if reward.value is None or score is None else scale_score(score, rubric)


def _parse_label(label: Any, field: str) -> dict[str, Any]:
    """Parse the judge's fields of a label, which may be a JSON object or its text; other labels have none."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            label = parse_strict_json(label, field)
        except FieldError:  # other texts start with a brace too: TeX, code, templates
            return {}
    if not isinstance(label, dict):
        return {}
    check_depth(label, field)
    # A label may have fields of its own, but a misspelled judge field must not drop the images silently.
    for name in label:
        matches = get_close_matches(name.lower(), LABEL_FIELDS, n=1, cutoff=0.9)
        if matches and name not in LABEL_FIELDS:
            raise FieldError.at_field(f"{field}.{name:.60}", f"unknown field; did you mean {matches[0]!r}?")
    return {name: label[name] for name in LABEL_FIELDS if label.get(name) is not None}
