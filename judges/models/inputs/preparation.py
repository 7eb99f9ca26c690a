"""Media as a model takes them: decoded, and scaled under the limits of its family."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import check_duration, check_samples, open_stream, scale_samples
from flex_judge.judges.media.prepared import SAMPLE_RATE, MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.models.inputs.vision import sample_frames, scale_image
from flex_judge.judges.models.profiles import Profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_AUDIO_SECONDS = 4 * 3600.0
"""Where a model's limits name none: a small file can hold days of silence."""
CACHE_BYTES = 256 << 20


class _MediaCache:
    """The media prepared last, up to a number of bytes: the candidates of a question share its media. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Any, tuple[PreparedMedia, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> PreparedMedia | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Any, prepared: PreparedMedia) -> None:
        is_image = prepared.modality == Modality.IMAGE
        size = prepared.height * prepared.width * 3 if is_image else int(prepared.value.nbytes)
        with self._lock:
            if size > self._max_bytes or key in self._kept:
                return
            self._kept[key] = (prepared, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1][1]


_CACHE = _MediaCache(CACHE_BYTES)


def prepare_media(media: Media, profile: Profile, limits: MediaLimits) -> PreparedMedia:
    """Decode a medium and scale it as the model takes it. What was prepared last is kept and shared.

    Args:
        media: an image, a video, an audio, or a molecule, whose conformer is computed.
        profile: the model's family, for the side of its patches.
        limits: the limits in force, see `MediaLimits.over`; None in one leaves it to the library.

    Raises:
        MediaError: it is broken, too elongated, too long or too short, or no molecule that can be laid out.
        UsageError: limits under which no video can be shown.
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
    if profile.count_tokens(prepared) < 1:
        raise MediaError(f"{media.name}: is too short for the model to hear ({prepared.length / SAMPLE_RATE:.3f} s)")
    return prepared


def _prepare_image(media: Media, patch: int, limits: MediaLimits) -> PreparedMedia:
    image = scale_image(media, patch, limits)
    return PreparedMedia(
        media.modality, image, _hash_media(media, patch, limits.image_max_pixels), image.height, image.width
    )


def _prepare_video(media: Media, patch: int, limits: MediaLimits) -> PreparedMedia:
    frames, fps = sample_frames(media, patch, limits)
    digest = _hash_media(media, patch, limits.video_fps, limits.video_max_pixels, limits.video_max_frames)
    length, height, width, _ = frames.shape
    return PreparedMedia(media.modality, frames, digest, height, width, length, fps)


def _prepare_audio(media: Media, limits: MediaLimits) -> PreparedMedia:
    """Mono by averaging, since FFmpeg's own way from stereo floats to mono adds 3 dB, then to 16 kHz."""
    import av
    import numpy as np

    seconds = MAX_AUDIO_SECONDS if limits.audio_max_seconds is None else limits.audio_max_seconds
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    pieces: list[NDArray[np.float32]] = []
    count = 0
    with open_stream(media.data, media.name, media.modality) as (container, stream):
        for frame in container.decode(stream):
            mono = av.AudioFrame.from_ndarray(_mix_to_mono(frame, media.name)[None], format="flt", layout="mono")
            mono.sample_rate = frame.sample_rate
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(mono)]
            count += frame.samples
            if count > seconds * frame.sample_rate:
                raise MediaError(f"{media.name}: is longer than {seconds:g} s; cut it or raise audio_max_seconds")
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
        check_duration(media.name, container, stream, count / stream.rate)
    samples = np.concatenate([*pieces, np.empty(0, np.float32)])
    check_samples(samples, media.name)
    return PreparedMedia(Modality.AUDIO, samples, _hash_media(media, SAMPLE_RATE), length=len(samples))


def _mix_to_mono(frame: Any, name: str) -> NDArray[np.float32]:
    """The mean of a decoded frame's channels, array (samples,)."""
    samples = frame.to_ndarray()  # (channels, samples), or (1, samples * channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mono: NDArray[np.float32] = scale_samples(samples, name).mean(axis=0)
    return mono


def _prepare_molecule(media: Media) -> PreparedMedia:
    from flex_judge.judges.models.mol_llama.features import featurise_molecule

    features = featurise_molecule(media.data.decode(), media.name)
    return PreparedMedia(media.modality, features, _hash_media(media), length=len(features.atoms))


def _hash_media(media: Media, *limits: float | None) -> str:
    plain = [None if limit is None else float(limit) for limit in limits]
    return hashlib.sha256(f"{media.digest}:{plain}".encode()).hexdigest()
