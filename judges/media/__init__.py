"""Images, videos, audio and molecules as bytes with a content hash, and the checks when they are opened.

May import errors, extras and validation; scaling for a model is in `flex_judge.judges.models.inputs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.judges.media.opening import make_audio, make_image, make_media, make_molecule, make_video
    from flex_judge.judges.media.types import Media, Modality

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.judges.media.opening": ["make_audio", "make_image", "make_media", "make_molecule", "make_video"],
        "flex_judge.judges.media.types": ["Media", "Modality"],
    },
)

__all__ = ["Media", "Modality", "make_audio", "make_image", "make_media", "make_molecule", "make_video"]
