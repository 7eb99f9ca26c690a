"""Media types: images, videos, audio and molecules as bytes with a content hash.

`flex_judge.judges.media.opening` creates media from files, arrays and data URIs;
`flex_judge.judges.models.inputs.preparation` decodes them within the limits of a model. Media are held in memory and
never fetched from a network, so that a judgment can be reproduced.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol


class Modality(StrEnum):
    """Kind of media."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    MOLECULE = "molecule"


@dataclass(frozen=True)
class Media:
    """One image, video, audio clip or molecule; immutable, picklable and equal by content.

    Created by `make_image`, `make_video`, `make_audio` and `make_molecule`.
    """

    modality: Modality
    """Kind of media."""
    data: bytes = field(repr=False)
    """Encoded content: an image, video or audio file, or a SMILES string in UTF-8."""
    name: str = field(compare=False)
    """Name for error messages: the path, or a description of the source."""
    frames: tuple[Media, ...] = field(default=(), repr=False)
    """Images of a video that was created from frames; such a video has no data."""
    fps: float | None = None
    """Frames per second of `frames`."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex digest of the content, independent of its source."""
        # Modality and frame rate are hashed too: the same bytes as another modality are other content.
        digest = hashlib.sha256(f"{self.modality}:{self.fps}:".encode())
        digest.update(self.data)
        for frame in self.frames:
            digest.update(frame.digest.encode())
        return digest.hexdigest()


class OpenMedia(Protocol):
    """Function that opens a medium: (modality, source, field, options) -> medium."""

    def __call__(self, modality: Modality, source: Any, field: str, **options: Any) -> Media:
        """Open a medium.

        Args:
            modality: its modality.
            source: its source, as in the row.
            field: place of the source in the row, for error messages.
            **options: `fps` of frames or `rate` of samples.
        """
        ...
