"""Create media from paths, bytes, data URIs, PIL images, arrays and SMILES strings.

Files are checked when they are opened, so that a damaged file gives one clear error before anything is judged.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.extras import import_optional, is_installed, is_instance_of
from flex_judge.judges.media.files import (
    check_pixels,
    check_samples,
    check_size,
    convert_decoder_errors,
    encode_wav,
    open_image,
    read_source,
    scale_samples,
    to_upright_rgb,
)
from flex_judge.judges.media.memory import reserve_video_decoder
from flex_judge.judges.media.streams import open_stream
from flex_judge.judges.media.types import Media, Modality

MAX_SMILES = 10_000
"""Maximum length of a SMILES string in characters."""
ENCODING_FEATURE = "a medium given as an array"
"""Feature that needs numpy and Pillow, for error messages."""


def make_image(source: Any) -> Media:
    """Create an image. Models see only the first frame of an animated image.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}` as data sets store images, a PIL
            image, or a uint8 array of shape (height, width, 3). Files are kept byte for byte. PIL images and arrays
            are encoded as PNG; a PIL image is first rotated as in its EXIF data and put over white.

    Raises:
        MediaError: the image is missing, empty, too large, damaged, or not an image. Without Pillow, damaged files are
            detected by the judge service.

    Example:
        >>> make_image("photo.png").modality
        <Modality.IMAGE: 'image'>
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.IMAGE)
    if is_instance_of(source, "numpy", "ndarray"):
        np, pillow = import_optional("numpy", ENCODING_FEATURE), import_optional("PIL.Image", ENCODING_FEATURE)
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise MediaError(
                f"image: expected a uint8 array (height, width, 3), got {source.dtype} {source.shape}; multiply "
                "floats from 0 to 1 by 255, and put channels last"
            )
        source = pillow.fromarray(np.ascontiguousarray(source))
    if is_instance_of(source, "PIL.Image", "Image"):
        name = str(getattr(source, "filename", "")) or f"{source.width}x{source.height} image"
        check_pixels(source.width, source.height, name)
        with convert_decoder_errors(name, Modality.IMAGE):
            encoded = io.BytesIO()  # PNG level 1: higher compression is slow and saves little of a short-lived file
            to_upright_rgb(source, name).save(encoded, "PNG", compress_level=1)
        return Media(Modality.IMAGE, encoded.getvalue(), name)
    data, name = read_source(source, Modality.IMAGE)
    if is_installed("PIL"):  # In a core install without Pillow, the judge service verifies files.
        with convert_decoder_errors(name, Modality.IMAGE):
            open_image(data, name).verify()  # Checks all checksums of a PNG; other formats are checked on decoding.
    return Media(Modality.IMAGE, data, name)


def make_video(source: Any, fps: float | None = None) -> Media:
    """Create a video.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}`, or frames: a sequence of sources
            for `make_image`, or a uint8 array of shape (frames, height, width, 3).
        fps: frames per second, required for frames and not allowed for files, which contain their frame rate.

    Raises:
        MediaError: the video is missing, empty, too large, damaged, or not a video, or `fps` is missing or not allowed.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.VIDEO)
    is_array = is_instance_of(source, "numpy", "ndarray") and source.ndim == 4
    if is_array or (isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)):
        frames = list(source)
    else:
        if fps is not None:
            raise MediaError("video: fps is for frames, got a file; use the limit video_fps to sample a file")
        data, name = read_source(source, Modality.VIDEO)
        if is_installed("av"):
            _check_container(data, name, Modality.VIDEO)
        return Media(Modality.VIDEO, data, name)
    if not frames:
        raise MediaError("video: got no frames")
    if fps is None or not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"video: frames need fps, a number of frames per second above 0, got {fps!r}")
    images = [make_image(frame) for frame in frames]
    named_frames = tuple(replace(frame, name=f"frame {i} ({frame.name})") for i, frame in enumerate(images))
    return Media(Modality.VIDEO, b"", f"video of {len(frames)} frames", frames=named_frames, fps=float(fps))


def make_audio(source: Any, rate: int | None = None) -> Media:
    """Create an audio clip.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}` or `{"array", "sampling_rate"}` as
            data sets store audio, or an array of shape (samples,) or (samples, channels) and type float (full scale at
            1), int16, int32 or uint8. Arrays are encoded as a float32 WAV file. For columns of `datasets`, cast with
            `Audio(decode=False)`, which gives bytes and path.
        rate: samples per second, required for arrays and not allowed for files, which contain their sample rate.

    Raises:
        MediaError: the audio is missing, empty, too large, damaged, or not audio; an array is out of range or has
            another shape; or `rate` is missing or not allowed.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.AUDIO)
    name = "audio array"
    if isinstance(source, Mapping) and source.get("array") is not None and rate is None:
        name = str(source.get("path") or name)
        source, rate = source["array"], source.get("sampling_rate")
    if not isinstance(source, list | tuple) and not is_instance_of(source, "numpy", "ndarray"):
        if rate is not None:
            raise MediaError("audio: rate is for arrays, got a file; leave it out")
        data, name = read_source(source, Modality.AUDIO)
        if is_installed("av"):
            _check_container(data, name, Modality.AUDIO)
        return Media(Modality.AUDIO, data, name)
    np = import_optional("numpy", ENCODING_FEATURE)
    if not isinstance(rate, int | np.integer) or not 1 <= rate <= 1_000_000:
        raise MediaError(f"{name}: expected a rate in samples per second, a whole number, got {rate!r}")
    with convert_decoder_errors(name, Modality.AUDIO):
        samples = scale_samples(np.asarray(source), name)
    # More than 32 channels means that the array is (channels, samples).
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > 32):
        raise MediaError(f"{name}: expected an array (samples,) or (samples, channels), got {samples.shape}")
    check_samples(samples, name)
    with convert_decoder_errors(name, Modality.AUDIO):
        encoded = encode_wav(samples, int(rate))
    check_size(len(encoded), name, Modality.AUDIO)
    return Media(Modality.AUDIO, encoded, name)


def make_molecule(source: Any) -> Media:
    """Create a molecule from SMILES. Only the form is checked (one line, no white space), not the chemistry.

    Args:
        source: SMILES string.

    Raises:
        MediaError: the source is not a string of this form, or is too long.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.MOLECULE)
    if not isinstance(source, str):
        raise MediaError(f"molecule: expected SMILES as text, got {type(source).__name__}")
    smiles = source.strip()
    name = f"molecule {smiles:.40}" if smiles.isprintable() else "molecule"
    if not smiles or not smiles.isprintable() or smiles.split() != [smiles]:
        raise MediaError(f"{name}: expected SMILES, one line of text without white space")
    if len(smiles) > MAX_SMILES:
        raise MediaError(f"{name}: {len(smiles)} characters are more than the {MAX_SMILES} allowed")
    return Media(Modality.MOLECULE, smiles.encode(), name)


_MAKERS: dict[Modality, tuple[Callable[..., Media], tuple[str, ...]]] = {
    Modality.IMAGE: (make_image, ()),
    Modality.VIDEO: (make_video, ("fps",)),
    Modality.AUDIO: (make_audio, ("rate",)),
    Modality.MOLECULE: (make_molecule, ()),
}
"""Modality -> function that creates its media, and the options of that function."""


def make_media(modality: Modality, source: Any, **options: Any) -> Media:
    """Create media of a given modality. Media that already have that modality are returned unchanged.

    Args:
        modality: modality to create.
        source: see the function for the modality, such as `make_image`.
        **options: `fps` for frames of a video, `rate` for an audio array.

    Raises:
        MediaError: the source cannot be read, has another modality, or does not support an option.
    """
    make, supported_options = _MAKERS[modality]
    unsupported = [name for name in options if name not in supported_options or isinstance(source, Media)]
    if unsupported:
        raise MediaError(f"{modality}: option {unsupported[0]!r} is not supported here; leave it out")
    return make(source, **options)


def open_local_media(modality: Modality, source: Any, field: str, **options: Any) -> Media:  # noqa: ARG001
    """Open a medium from a path, bytes, a data URI, an image or an array. Nothing is fetched from a network.

    Raises:
        MediaError: the medium cannot be read, or is a URL.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise MediaError(f"expected a path or a data URI, got {source!r:.80}; nothing is fetched from the network")
    if modality == Modality.VIDEO and isinstance(source, Mapping) and "frames" in source:
        source, options = source["frames"], {"fps": source.get("fps"), **options}
    return make_media(modality, source, **options)


def _require_modality(media: Media, modality: Modality) -> Media:
    if media.modality != modality:
        raise MediaError(f"{media.name}: expected {modality}, got {media.modality}")
    return media


def _check_container(data: bytes, name: str, kind: Modality) -> None:
    """Check that a video or audio file opens and that a frame can be decoded."""
    with convert_decoder_errors(name, kind), open_stream(data, name, kind) as opened, ExitStack() as reserved:
        if kind == Modality.VIDEO and opened.stream.width and opened.stream.height:
            check_pixels(opened.stream.width, opened.stream.height, name)
            reserved.enter_context(reserve_video_decoder(opened.stream.width, opened.stream.height))
        if next(opened.decode_frames(), None) is None:
            raise MediaError(f"{name}: contains no {kind} that can be decoded")
