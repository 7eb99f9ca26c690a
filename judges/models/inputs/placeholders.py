"""Which placeholder of a prompt stands for which medium; the check that is made when a prompt is rendered, and again by
every engine before it runs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.judges.errors import MediaError, RenderError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import Profile


class PlaceholderTokens:
    """The placeholder pads of one checkpoint's vocabulary."""

    def __init__(self, profile: Profile, tokenizer: Any) -> None:
        vocabulary: Mapping[str, int] = tokenizer.get_added_vocab()
        missing = [p.pad for p in profile.placeholders.values() if p.pad not in vocabulary]
        if missing:
            raise RenderError(f"the tokenizer has no token {missing[0]!r}, which {profile.name} marks media with")
        self.profile = profile
        self.ids = {modality: vocabulary[p.pad] for modality, p in profile.placeholders.items()}
        """Modality -> token id of its pad."""
        self._modalities = {token: modality for modality, token in self.ids.items()}

    def match_modalities(self, token_ids: Sequence[int], wanted: Sequence[Modality]) -> list[int]:
        """The place of each pad in a prompt.

        Raises:
            RenderError: the pads do not stand for media of these modalities one by one.
        """
        places = [i for i, token in enumerate(token_ids) if token in self._modalities]
        found = [self._modalities[token_ids[i]] for i in places]
        if found != list(wanted):
            raise RenderError(
                f"the prompt's placeholders stand for {_format_modalities(found)}, but it comes with {_format_modalities(wanted)}"
            )
        return places

    def locate_media(self, token_ids: Sequence[int], media: Sequence[PreparedMedia], limit: int) -> list[int]:
        """The place of each medium's pad in a prompt.

        Args:
            token_ids: the prompt, with one pad per medium.
            media: what the pads stand for, in their order.
            limit: longest sequence that the engine takes, in tokens.

        Raises:
            UsageError: the prompt leaves no room for a reply once the pads are repeated.
            MediaError: a medium that the family does not take, or one too small to be represented.
            RenderError: the pads do not stand for the media one by one. A model given such a prompt would look at the
                wrong thing, or fail in the middle of a batch.
        """
        for medium in media:
            if medium.modality not in self.ids:
                raise MediaError(f"{medium.modality}: a {self.profile.name} model takes none; use another judge")
            if medium.height % self.profile.patch or medium.width % self.profile.patch:
                raise MediaError(
                    f"{medium.modality}: {medium.width} x {medium.height} pixels; a {self.profile.name} model takes "
                    f"multiples of {self.profile.patch}, so prepare it with that model's profile"
                )
            if self.profile.count_tokens(medium) < 1:
                raise MediaError(f"{medium.modality}: too small for the model to see or hear anything in it")
        places = self.match_modalities(token_ids, [medium.modality for medium in media])
        length = self.profile.count_prompt_tokens(token_ids, media)
        if length >= limit:
            raise UsageError(
                f"prompt: {length} tokens, media included, leave no room for a reply within the {limit} of the engine; "
                "shorten it, limit the media, or raise max_model_len"
            )
        return places


def check_media_content(medium: PreparedMedia) -> None:
    """Raise MediaError unless a medium's content is what it says of itself: models fail on it in the middle of a batch
    otherwise.
    """
    value, dtype = medium.value, str(getattr(medium.value, "dtype", ""))
    if medium.modality == Modality.IMAGE:
        fits = getattr(value, "mode", "") == "RGB" and value.size == (medium.width, medium.height)
    elif medium.modality == Modality.VIDEO:
        fits = dtype == "uint8" and value.shape == (medium.length, medium.height, medium.width, 3) and medium.fps > 0
    elif medium.modality == Modality.MOLECULE:
        fits = len(getattr(value, "atoms", ())) == medium.length
    else:
        fits = dtype == "float32" and value.shape == (medium.length,)
    if not fits:
        raise MediaError(
            f"{medium.modality}: not of the type and size that it is said to have; see "
            f"flex_judge.judges.models.inputs.preparation"
        )


def _format_modalities(modalities: Sequence[Modality]) -> str:
    return ", ".join(modalities) or "no media"
