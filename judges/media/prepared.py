"""What a model takes of a medium: within which limits, and in which form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flex_judge.judges.media.types import Modality
from flex_judge.judges.validation.classes import PositiveFloat, PositiveInt, settings_class

SAMPLE_RATE = 16_000
"""Hz, mono: what every audio encoder here takes."""


@settings_class
class MediaLimits:
    """How media are scaled before a model sees them. None leaves it to the model family."""

    image_max_pixels: PositiveInt | None = None
    """Scale images above N pixels down, keeping their proportions."""
    video_fps: PositiveFloat | None = None
    """Video frames to sample per second."""
    video_max_pixels: PositiveInt | None = None
    """Scale video frames above N pixels down."""
    video_max_frames: PositiveInt | None = None
    """Maximum number of frames sampled from a video."""
    audio_max_seconds: PositiveFloat | None = None
    """Reject audio longer than N seconds; cutting it would judge something else."""

    def fill_defaults(self, family: MediaLimits) -> MediaLimits:
        """These limits, with the family's where these say nothing."""
        mine = {name: value for name, value in vars(self).items() if value is not None}
        return MediaLimits(**(vars(family) | mine))


@dataclass(frozen=True, eq=False)
class PreparedMedia:
    """A medium, ready for an engine. Shared by all prompts that show it, so its value is not to be changed."""

    modality: Modality
    value: Any
    """Image: a PIL image in RGB. Video: uint8 array (frames, height, width, 3). Audio: float32 array (samples,) of
    16 kHz mono, full scale at 1 (which decoders may overshoot a little). Molecule: `MoleculeFeatures`."""
    digest: str
    """Hash of the content and of the limits it was scaled under."""
    height: int = 0
    width: int = 0
    length: int = 1
    """Frames of a video, samples of an audio."""
    fps: float = 0.0
    """Frames per second of a video as sampled."""
