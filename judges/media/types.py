"""Images, video, audio and molecules as they enter a judgment: bytes with a content hash.

`flex_judge.judges.media.opening` makes them from files, arrays and data URIs;
`flex_judge.judges.models.inputs.preparation` decodes them under the limits of a model. Everything is held in memory and
nothing is fetched: a judgment does not depend on a network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    MOLECULE = "molecule"


@dataclass(frozen=True)
class Media:
    """One medium. Made by `image`, `video`, `audio` and `molecule`; immutable, picklable and equal by content."""

    modality: Modality
    data: bytes = field(repr=False)
    """The encoded content: an image, video or audio file, or a SMILES string in UTF-8."""
    name: str = field(compare=False)
    """What error messages call it: its path, or what it was made from."""
    frames: tuple[Media, ...] = field(default=(), repr=False)
    """For a video given as frames: the frames as images, and no data."""
    fps: float | None = None
    """Frames per second of `frames`."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, in hex; the same for the same content wherever it came from."""
        digest = hashlib.sha256(f"{self.modality}:{self.fps}:".encode())
        digest.update(self.data)
        for frame in self.frames:
            digest.update(frame.digest.encode())
        return digest.hexdigest()
