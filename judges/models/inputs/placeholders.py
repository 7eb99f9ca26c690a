"""Matching of placeholder tokens in a prompt with the media they stand for.

The renderer runs this check on every prompt, and each engine repeats it before it runs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.judges.errors import MediaError, RenderError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import Profile


class PlaceholderTokens:
    """Ids of a checkpoint's placeholder tokens, one for each modality."""

    def __init__(self, profile: Profile, tokenizer: Any) -> None:
        vocabulary: Mapping[str, int] = tokenizer.get_added_vocab()
        missing = [p.pad for p in profile.placeholders.values() if p.pad not in vocabulary]
        if missing:
            raise RenderError(
                f"tokenizer: no token {missing[0]!r}, the {profile.name} placeholder; use the model's own tokenizer"
            )
        self.profile = profile
        self.ids = {modality: vocabulary[p.pad] for modality, p in profile.placeholders.items()}
        """Modality -> id of its placeholder token."""
        self._modalities = {token: modality for modality, token in self.ids.items()}

    def match_modalities(self, token_ids: Sequence[int], expected: Sequence[Modality]) -> list[int]:
        """Return the positions of the placeholder tokens in a prompt.

        Args:
            token_ids: the prompt.
            expected: modalities of the prompt's media, in order.

        Raises:
            RenderError: the placeholders differ from `expected` in number, modality or order.
        """
        positions = [i for i, token in enumerate(token_ids) if token in self._modalities]
        modalities = [self._modalities[token_ids[i]] for i in positions]
        if modalities != list(expected):
            raise RenderError(
                f"prompt: its placeholders stand for {_format_modalities(modalities)}, "
                f"but it comes with {_format_modalities(expected)}"
            )
        return positions

    def locate_media(self, token_ids: Sequence[int], media: Sequence[PreparedMedia], limit: int) -> list[int]:
        """Check a prompt with its media and return the position of each placeholder token.

        Args:
            token_ids: the prompt, with one placeholder token per medium.
            media: media of the prompt, in order.
            limit: longest sequence that the engine accepts, in tokens.

        Raises:
            UsageError: the prompt leaves no room for a reply after the placeholder tokens are repeated.
            MediaError: the family does not support a medium's modality or size.
            RenderError: placeholders and media do not match. The model would look at the wrong medium or fail in the
                middle of a batch.
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
                raise MediaError(f"{medium.modality}: too small, it has no token for the model; use a larger one")
        positions = self.match_modalities(token_ids, [medium.modality for medium in media])
        length = self.profile.count_prompt_tokens(token_ids, media)
        if length >= limit:
            raise UsageError(
                f"prompt: {length} tokens, media included, leave no room for a reply within the engine's limit of "
                f"{limit}; shorten it, limit the media, or raise max_model_len"
            )
        return positions


def check_media_content(medium: PreparedMedia) -> None:
    """Check that a medium's content has the type and shape that its fields state.

    Raises:
        MediaError: it has not. The model would fail on it in the middle of a batch.
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
            f"{medium.modality}: its content differs from its declared type or size; create it with "
            "flex_judge.judges.models.inputs.preparation"
        )


def _format_modalities(modalities: Sequence[Modality]) -> str:
    return ", ".join(modalities) or "no media"
