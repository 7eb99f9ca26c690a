"""Trainer formats of preference pairs.

A row is a JSON object. All rows of a data set have the same columns of the same types, so that shards whose types are
inferred separately still fit together. A data set as a whole is therefore either for text models or for multimodal
models:

- With `images`, the content of each message is a list of parts and each row has a list of images, which may be empty.
  TRL takes mixed data sets in this form.
- Without, content is plain text and there is no image column, because TRL rejects one for a text model.
- With `molecules`, a molecule is `<mol>` in the text and its SMILES string is in the column `molecules`. Without, its
  SMILES string is part of the text.
- Messages with tool calls, names or reasoning have further fields, in the format of chat templates: `tool_calls` with
  arguments as objects, `tool_call_id`, `name` and `reasoning_content`. Definitions of tools are JSON text in the column
  `tools`, which TRL parses. A data set with such rows has this column in every row, and each message is of the type
  Json, see `schema`: in a struct, Arrow would add the null arguments of all other tools to every call.

An image is stored as a data URI in the row. The file is self-contained, its shards can be moved and concatenated, and
both `datasets` (feature Image) and the transformers processors can open it. The card's header tells `load_dataset` the
features. `flex_judge.alignment.preferences.schema` converts rows to Parquet, which stores the image bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flex_judge.alignment.data.image_uris import encode_data_uri
from flex_judge.alignment.data.texts import EqualityKey, compute_prompt_digest, make_equality_key, replace_surrogates
from flex_judge.alignment.preferences.pairs import Pair, Side
from flex_judge.alignment.preferences.prompt_columns import (
    MediaOptions,
    locate_row,
    make_answer,
    make_input_columns,
    make_messages,
    make_tools_column,
)
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import split_content

JsonRow = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """Format of preference rows."""

    name: str
    trainer: str
    """Trainer that reads the format."""
    row_maker: Callable[[Sequence[Pair], MediaOptions], list[JsonRow]]
    takes_images: bool = True

    def make_rows(self, pairs: Sequence[Pair], images: bool = False, molecules: bool = False) -> list[JsonRow]:
        """Make the rows of one prompt's pairs.

        Args:
            pairs: Pairs of one prompt.
            images: Whether the data set is for models that take images; the same for all its rows.
            molecules: Whether the data set is for models that take molecules.

        Raises:
            UsageError: A prompt or an answer has media that the format cannot represent.
        """
        self.check_media(images, molecules)
        return self.row_maker(pairs, MediaOptions(images, molecules))

    def check_media(self, images: bool, molecules: bool = False) -> None:
        """Raise UsageError if the format cannot represent the requested media."""
        if molecules and self.name not in ("preference", "kto"):
            raise UsageError(f"format {self.name!r} cannot hold molecules; use 'preference' or 'kto'")
        if molecules and images:
            raise UsageError(f"format {self.name!r} cannot hold molecules and images in one row; choose one of them")
        if images and not self.takes_images:
            raise UsageError(f"format {self.name!r} is text-only, like {self.trainer}; leave images out")


def _make_preference_rows(pairs: Sequence[Pair], options: MediaOptions) -> list[JsonRow]:
    return [
        {
            "prompt": make_messages(pair.row, options),
            "chosen": make_answer(pair.row, pair.chosen.response, options),
            "rejected": make_answer(pair.row, pair.rejected.response, options),
            **make_input_columns(pair.row, options),
            **_make_score_columns(pair),
        }
        for pair in pairs
    ]


def _make_kto_rows(pairs: Sequence[Pair], options: MediaOptions) -> list[JsonRow]:
    """Make one row per answer, labelled desirable or not, with the scores of the first pair that contains it.

    An answer that is chosen in one pair and rejected in another is ambiguous and is left out.
    """
    chosen = {make_equality_key(pair.chosen.response) for pair in pairs}
    ambiguous = chosen & {make_equality_key(pair.rejected.response) for pair in pairs}
    rows: dict[EqualityKey, JsonRow] = {}
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            key = make_equality_key(side.response)
            # An answer in several pairs gets one row, or it would be trained on repeatedly.
            if key not in ambiguous and key not in rows:
                rows[key] = {
                    "prompt": make_messages(pair.row, options),
                    "completion": make_answer(pair.row, side.response, options),
                    "label": key in chosen,
                    **make_input_columns(pair.row, options),
                    **_make_score_columns(pair),
                }
    return list(rows.values())


def _make_reward_rows(pairs: Sequence[Pair], options: MediaOptions) -> list[JsonRow]:
    """Make rows of whole conversations.

    The column `margin` of other formats is named `score_margin` here: TRL's RewardTrainer subtracts a column `margin`
    from the difference of its rewards, which are not on the scale of the judge's scores.
    """
    rows = []
    for pair in pairs:
        prompt = make_messages(pair.row, options)
        row: JsonRow = {
            "chosen": [*prompt, *make_answer(pair.row, pair.chosen.response, options)],
            "rejected": [*prompt, *make_answer(pair.row, pair.rejected.response, options)],
            **make_tools_column(pair.row),
        }
        for name, value in _make_score_columns(pair).items():
            row["score_margin" if name == "margin" else name] = value
        rows.append(row)
    return rows


def _make_image_pair_rows(pairs: Sequence[Pair], options: MediaOptions) -> list[JsonRow]:
    """Make rows whose answers are images.

    The format is specific to this project: trainers of language models take images in the prompt only.
    """
    return [
        {
            "prompt": make_messages(pair.row, options),
            "chosen_image": _encode_only_image(pair, pair.chosen),
            "rejected_image": _encode_only_image(pair, pair.rejected),
            **make_input_columns(pair.row, options),
            **_make_score_columns(pair),
        }
        for pair in pairs
    ]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        f.name: f
        for f in (
            Format("preference", "TRL's DPOTrainer", _make_preference_rows),
            Format("kto", "TRL's KTOTrainer", _make_kto_rows),
            Format("reward", "TRL's RewardTrainer", _make_reward_rows, takes_images=False),
            Format("image_pairs", "a trainer of image models", _make_image_pair_rows),
        )
    }
)
"""Formats by name."""


def _make_score_columns(pair: Pair) -> JsonRow:
    """Make the columns with scores, judge reasoning and provenance."""
    chosen, rejected = pair.chosen, pair.rejected
    return {
        "score_chosen": float(chosen.score),
        "score_rejected": float(rejected.score),
        "margin": float(pair.margin),
        "judge_reasoning": {
            "chosen": replace_surrogates(chosen.reasoning),
            "rejected": replace_surrogates(rejected.reasoning),
        },
        "provenance": {
            "id": replace_surrogates(pair.row.id),
            "prompt_digest": compute_prompt_digest(pair.row.prompt),
            "rule": pair.rule,
            "rubric": pair.rubric,
            "judge": pair.judge,
            "policy": pair.policy,
            "chosen_index": chosen.index,
            "rejected_index": rejected.index,
            "expected_score_chosen": chosen.expected,
            "expected_score_rejected": rejected.expected,
            "temperature_chosen": chosen.temperature,
            "temperature_rejected": rejected.temperature,
            "votes": pair.votes,
            "disagreement": float(pair.disagreement),
        },
    }


def _encode_only_image(pair: Pair, side: Side) -> str:
    parts = [part for part in split_content(side.response) if isinstance(part, Media) or part.strip()]
    if len(parts) != 1 or not isinstance(parts[0], Media) or parts[0].modality != Modality.IMAGE:
        raise UsageError(
            f"{locate_row(pair.row)}: format 'image_pairs' needs answers of exactly one image, got {side.text!r:.60}"
        )
    return encode_data_uri(parts[0])
