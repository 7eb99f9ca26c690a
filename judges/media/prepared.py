"""Media as models receive them: limits for scaling, and the decoded form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flex_judge.judges.media.types import Modality
from flex_judge.judges.validation.classes import PositiveFloat, PositiveInt, settings_class

SAMPLE_RATE = 16_000
"""Sample rate of all audio encoders in Hz; audio is mono."""


@settings_class
class MediaLimits:
    """Limits for scaling media. None uses the limit of the model family."""

    image_max_pixels: PositiveInt | None = None
    """Maximum size of an image in pixels; larger ones are scaled down (default: by model family)."""
    video_fps: PositiveFloat | None = None
    """Number of video frames to sample per second (default: by model family)."""
    video_max_pixels: PositiveInt | None = None
    """Maximum size of a video frame in pixels; larger ones are scaled down (default: by model family)."""
    video_max_frames: PositiveInt | None = None
    """Maximum number of frames sampled from a video (default: by model family)."""
    audio_max_seconds: PositiveFloat | None = None
    """Maximum length of audio in seconds; longer audio is rejected, not truncated (default: by model family)."""

    def fill_defaults(self, family: MediaLimits) -> MediaLimits:
        """Return these limits, with each None replaced by the family's limit."""
        overrides = {name: value for name, value in vars(self).items() if value is not None}
        return MediaLimits(**(vars(family) | overrides))


@dataclass(frozen=True, eq=False)  # eq=False: arrays do not compare to a single bool
class PreparedMedia:
    """Decoded and scaled media, ready for an engine. Prompts share instances, so the value must not be modified."""

    modality: Modality
    """Modality of the value."""
    value: Any
    """Image: PIL image in RGB. Video: uint8 array of shape (frames, height, width, 3). Audio: float32 array of shape
    (samples,), 16 kHz mono, full scale at 1 (slightly exceeded by some decoders). Molecule: `MoleculeFeatures`."""
    digest: str
    """Hash of the content and of the limits used for scaling."""
    height: int = 0
    """Height in pixels, for images and videos."""
    width: int = 0
    """Width in pixels, for images and videos."""
    length: int = 1
    """Number of frames of a video, or of samples of audio."""
    fps: float = 0.0
    """Frames per second of the sampled video."""
    notes: tuple[str, ...] = ()
    """What the value lacks compared with the file: frames above a limit, packets that could not be decoded."""
