"""Media preparation: decode a medium and scale it within the limits of the model family."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.memory import check_prepared_size
from flex_judge.judges.media.prepared import SAMPLE_RATE, MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.models.inputs.audio import decode_audio
from flex_judge.judges.models.inputs.video import sample_video
from flex_judge.judges.models.inputs.vision import scale_image
from flex_judge.judges.models.profiles import Profile

MAX_AUDIO_SECONDS = 4 * 3600.0
"""Longest audio when the model's limits set no maximum. A small file can hold days of silence."""
CACHE_BYTES = 256 << 20
logger = logging.getLogger(__name__)


class _MediaCache:
    """Thread-safe LRU cache of prepared media, bounded in bytes. Candidates of one question share its media."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Any, tuple[PreparedMedia, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> PreparedMedia | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Any, prepared: PreparedMedia) -> None:
        size = _measure_size(prepared)
        with self._lock:
            # A medium above the bound would evict all others and then itself.
            if size > self._max_bytes or key in self._entries:
                return
            self._entries[key] = (prepared, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, evicted_size) = self._entries.popitem(last=False)
                self._bytes -= evicted_size


_CACHE = _MediaCache(CACHE_BYTES)


def prepare_all_media(media: Iterable[Media], profile: Profile, limits: MediaLimits) -> tuple[PreparedMedia, ...]:
    """Prepare the media of one prompt, see `prepare_media`.

    Raises:
        MediaError: together they take too much memory.
    """
    prepared: list[PreparedMedia] = []
    size = 0
    for medium in media:
        prepared.append(prepare_media(medium, profile, limits))
        size += _measure_size(prepared[-1])
        check_prepared_size(size, len(prepared))
    return tuple(prepared)


def _measure_size(prepared: PreparedMedia) -> int:
    """Return the size of prepared media in bytes."""
    is_image = prepared.modality == Modality.IMAGE
    return prepared.height * prepared.width * 3 if is_image else int(prepared.value.nbytes)


def prepare_media(media: Media, profile: Profile, limits: MediaLimits) -> PreparedMedia:
    """Decode a medium and scale it for a model family. Recent results are cached and shared.

    Args:
        media: an image, a video, an audio, or a molecule, which gets a conformer.
        profile: model family; its patch size is used.
        limits: limits in force, see `MediaLimits.fill_defaults`; a limit of None leaves the choice to the library.

    Raises:
        MediaError: the medium is broken, too elongated, too long, too short, or a molecule without a conformer.
        UsageError: the limits allow no video.
    """
    key = (media.digest, limits, profile.patch)
    prepared = _CACHE.get(key)
    if prepared is None:
        match media.modality:
            case Modality.IMAGE:
                prepared = _prepare_image(media, profile.patch, limits)
            case Modality.VIDEO:
                prepared = _prepare_video(media, profile.patch, limits)
            case Modality.AUDIO:
                prepared = _prepare_audio(media, limits)
            case Modality.MOLECULE:
                prepared = _prepare_molecule(media)
        _CACHE.put(key, prepared)
        for note in prepared.notes:
            logger.warning("%s: %s", media.name, note)
    if profile.count_tokens(prepared) < 1:
        seconds = prepared.length / SAMPLE_RATE
        raise MediaError(f"{media.name}: {seconds:.3f} s is too short for the model; use a longer recording")
    # Media of equal content share a cache entry but may have different names.
    return (
        replace(prepared, notes=tuple(f"{media.name}: {note}" for note in prepared.notes))
        if prepared.notes
        else prepared
    )


def _prepare_image(media: Media, patch: int, limits: MediaLimits) -> PreparedMedia:
    image = scale_image(media, patch, limits)
    digest = _hash_media(media, patch, limits.image_max_pixels)
    return PreparedMedia(media.modality, image, digest, height=image.height, width=image.width)


def _prepare_video(media: Media, patch: int, limits: MediaLimits) -> PreparedMedia:
    sampled = sample_video(media, patch, limits)
    digest = _hash_media(media, patch, limits.video_fps, limits.video_max_pixels, limits.video_max_frames)
    length, height, width, _ = sampled.frames.shape
    size = {"height": height, "width": width, "length": length}
    return PreparedMedia(media.modality, sampled.frames, digest, fps=sampled.fps, notes=sampled.notes, **size)


def _prepare_audio(media: Media, limits: MediaLimits) -> PreparedMedia:
    max_seconds = MAX_AUDIO_SECONDS if limits.audio_max_seconds is None else limits.audio_max_seconds
    samples, notes = decode_audio(media, max_seconds)
    digest = _hash_media(media, SAMPLE_RATE)
    return PreparedMedia(media.modality, samples, digest, length=len(samples), notes=notes)


def _prepare_molecule(media: Media) -> PreparedMedia:
    from flex_judge.judges.models.mol_llama.features import featurise_molecule

    features = featurise_molecule(media.data.decode(), media.name)
    return PreparedMedia(media.modality, features, _hash_media(media), length=len(features.atoms))


def _hash_media(media: Media, *limits: float | None) -> str:
    """Hash a medium together with the limits that affect how it is prepared."""
    normalised = [None if limit is None else float(limit) for limit in limits]  # 1 and 1.0 are the same limit
    return hashlib.sha256(f"{media.digest}:{normalised}".encode()).hexdigest()
