"""The formats in which pairs are written, as trainers read them.

A row is a JSON object with the same columns, of the same types, in every row of a data set: shards whose types are
inferred one by one still fit together. So a data set is for text models or for models that see, as a whole: with
`images`, every message's content is a list of parts and every row has a list of images, if an empty one, which is how
TRL takes mixed sets; without, content is text, and there is no such column, as TRL refuses it for a text model.

An image is a data URI in the row: such a file is whole by itself, its shards can be moved and joined, and both
`datasets` (as feature Image) and transformers' processors open one. The card's header tells `load_dataset` the
features. With `molecules`, a molecule is `<mol>` in the text, and its SMILES is in the list of the column `molecules`;
without, its SMILES is the text. `flex_judge.alignment.preferences.schema` turns rows into Parquet, which holds the
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flex_judge.alignment.data.image_uris import encode_data_uri
from flex_judge.alignment.data.rows import MOLECULE_MARK, PromptRow
from flex_judge.alignment.data.texts import compute_prompt_digest, replace_surrogates
from flex_judge.alignment.preferences.pairs import Pair, Side
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Content, Message, content_to_text, split_content

JsonRow = dict[str, Any]


@dataclass(frozen=True)
class MediaOptions:
    """What the models see that a data set is for."""

    images: bool = False
    molecules: bool = False


@dataclass(frozen=True)
class Format:
    """One way to write pairs."""

    name: str
    trainer: str
    """What reads it."""
    make: Callable[[Sequence[Pair], MediaOptions], list[JsonRow]]
    takes_images: bool = True

    def make_rows(self, pairs: Sequence[Pair], images: bool = False, molecules: bool = False) -> list[JsonRow]:
        """The rows of one prompt's pairs.

        Args:
            images: whether the data set is for models that see images; the same for all its rows.
            molecules: whether it is for models that see molecules.

        Raises:
            UsageError: a prompt or an answer has media that the format has no place for.
        """
        self.check_media(images, molecules)
        return self.make(pairs, MediaOptions(images, molecules))

    def check_media(self, images: bool, molecules: bool = False) -> None:
        """Raise UsageError if the format cannot hold images or molecules but should."""
        if molecules and (images or self.name not in ("preference", "kto")):
            raise UsageError(f"format {self.name!r} has no place for molecules" + " and images in one row" * images)
        if images and not self.takes_images:
            raise UsageError(f"format {self.name!r} is for text alone, as is {self.trainer}; leave images out")


def _make_preference_rows(pairs: Sequence[Pair], sees: MediaOptions) -> list[JsonRow]:
    return [
        {
            "prompt": _make_messages(pair.row, sees),
            "chosen": [_make_answer(pair, pair.chosen, sees)],
            "rejected": [_make_answer(pair, pair.rejected, sees)],
            **_make_media_columns(pair.row, sees),
            **_make_score_columns(pair),
        }
        for pair in pairs
    ]


def _make_kto_rows(pairs: Sequence[Pair], sees: MediaOptions) -> list[JsonRow]:
    """Each answer once, as desirable or not, with the scores of the first pair it is in. An answer that is chosen in
    one pair and rejected in another is neither, and left out."""
    chosen = {pair.chosen.index for pair in pairs}
    both = chosen & {pair.rejected.index for pair in pairs}
    found: dict[int, JsonRow] = {}
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            if side.index not in both and side.index not in found:
                found[side.index] = {
                    "prompt": _make_messages(pair.row, sees),
                    "completion": [_make_answer(pair, side, sees)],
                    "label": side.index in chosen,
                    **_make_media_columns(pair.row, sees),
                    **_make_score_columns(pair),
                }
    return list(found.values())


def _make_reward_rows(pairs: Sequence[Pair], sees: MediaOptions) -> list[JsonRow]:
    """Whole conversations. What other formats call `margin` is `score_margin`: TRL's RewardTrainer subtracts a column
    of the other name from the difference of its rewards, on whose scale the judge's scores are not."""
    rows = []
    for pair in pairs:
        about = _make_score_columns(pair)
        prompt = _make_messages(pair.row, sees)
        conversations = {
            name: [*prompt, _make_answer(pair, side, sees)]
            for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        rows.append(conversations | {"score_margin" if name == "margin" else name: v for name, v in about.items()})
    return rows


def _make_image_pair_rows(pairs: Sequence[Pair], sees: MediaOptions) -> list[JsonRow]:
    """Answers that are images. Trainers of language models have no place for them (TRL gives a model the prompt's
    images alone), so the form is our own."""
    return [
        {
            "prompt": _make_messages(pair.row, sees),
            "chosen_image": _encode_only_image(pair, pair.chosen),
            "rejected_image": _encode_only_image(pair, pair.rejected),
            **_make_media_columns(pair.row, sees),
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
"""How pairs are written, by name."""


def _make_score_columns(pair: Pair) -> JsonRow:
    """The columns that say what the judge thinks and where all came from."""
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


def make_prompt_columns(row: PromptRow, images: bool = False, molecules: bool = False) -> JsonRow:
    """The columns of a prompt alone, as trainers read them: `prompt`, with `images` also these, and with `molecules`.

    Raises:
        UsageError: it has media for which there is no place.
    """
    sees = MediaOptions(images, molecules)
    return {"prompt": _make_messages(row, sees), **_make_media_columns(row, sees)}


def has_images(row: PromptRow) -> bool:
    """Whether a prompt has images."""
    return bool(_find_images(row.prompt))


def has_molecules(row: PromptRow) -> bool:
    """Whether a prompt has molecules."""
    return bool(_find_molecules(row.prompt))


def _make_messages(row: PromptRow, sees: MediaOptions) -> list[JsonRow]:
    return [{"role": m.role, "content": _make_content(row, m.content, sees)} for m in row.prompt]


def _make_answer(pair: Pair, side: Side, sees: MediaOptions) -> JsonRow:
    if any(isinstance(part, Media) and part.modality != Modality.MOLECULE for part in split_content(side.response)):
        raise UsageError(
            f"{_locate_row(pair.row)}: the answer {content_to_text(side.response)!r:.60} has media, for which trainers of language "
            "models have no place; use the format 'image_pairs'"
        )
    return {"role": "assistant", "content": _make_content(pair.row, side.response, sees)}


def _make_content(row: PromptRow, content: Content, sees: MediaOptions) -> Any:
    """Text, or parts of which each has both fields: where a field is missing, Arrow would put a null, and templates
    stumble over it."""
    parts = _flatten_parts(row, content, sees.molecules)
    if sees.images:
        return [{"type": "image", "text": ""} if isinstance(p, Media) else {"type": "text", "text": p} for p in parts]
    if any(isinstance(part, Media) for part in parts):
        raise UsageError(f"{_locate_row(row)}: has an image, and the data set is made for text models")
    return "".join(str(part) for part in parts)


def _flatten_parts(row: PromptRow, content: Content, molecules: bool) -> list[str | Media]:
    """Content as texts, joined where they meet, and images. A molecule is its place, or its SMILES, as the policy read
    it."""
    told: list[str | Media] = []
    for part in split_content(content):
        if isinstance(part, Media) and part.modality == Modality.MOLECULE:
            told.append(MOLECULE_MARK if molecules else part.data.decode())
        elif isinstance(part, Media) and part.modality != Modality.IMAGE:
            raise UsageError(
                f"{_locate_row(row)}: has a part of type {part.modality}, for which TRL's formats have no place"
            )
        else:
            told.append(replace_surrogates(part) if isinstance(part, str) else part)
    joined: list[str | Media] = []
    for part in told:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _make_media_columns(row: PromptRow, sees: MediaOptions) -> JsonRow:
    """The prompt's media in the order of their parts; no column of a kind that the data set's models do not see."""
    images = {"images": [encode_data_uri(image) for image in _find_images(row.prompt)]} if sees.images else {}
    molecules = [one.data.decode() for one in _find_molecules(row.prompt)]
    if sees.molecules and "".join(content_to_text(m.content) for m in row.prompt).count(MOLECULE_MARK):
        raise UsageError(
            f"{_locate_row(row)}: has {MOLECULE_MARK} in its text, which stands for a molecule in the data set"
        )
    return {**images, **({"molecules": molecules} if sees.molecules else {})}


def _find_molecules(prompt: Sequence[Message]) -> list[Media]:
    return [
        part
        for message in prompt
        for part in split_content(message.content)
        if isinstance(part, Media) and part.modality == Modality.MOLECULE
    ]


def _find_images(prompt: Sequence[Message]) -> list[Media]:
    parts = (part for message in prompt for part in split_content(message.content))
    return [part for part in parts if isinstance(part, Media) and part.modality == Modality.IMAGE]


def _encode_only_image(pair: Pair, side: Side) -> str:
    parts = [part for part in split_content(side.response) if isinstance(part, Media) or part.strip()]
    if len(parts) != 1 or not isinstance(parts[0], Media) or parts[0].modality != Modality.IMAGE:
        raise UsageError(
            f"{_locate_row(pair.row)}: format 'image_pairs' is for answers of one image, got {side.text!r:.60}"
        )
    return encode_data_uri(parts[0])


def _locate_row(row: PromptRow) -> str:
    return row.where or f"prompt {row.id!r}"
