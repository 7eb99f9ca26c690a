"""Make media from what users have: paths, bytes, data URIs, PIL images, arrays and SMILES strings.

Files are checked when they are opened, so that a broken file is one clear error before anything is judged.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.extras import import_optional, is_installed, is_instance_of
from flex_judge.judges.media.files import (
    check_container,
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
from flex_judge.judges.media.types import Media, Modality

MAX_SMILES = 10_000  # characters
ENCODING_FEATURE = "a medium given as an array"
"""What needs numpy and Pillow, for error messages."""


def make_image(source: Any) -> Media:
    """An image; of an animated one, the first frame.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}` as data sets store images, a PIL
            image, or a uint8 array (height, width, 3). Files are kept as they are. Pixels become a PNG; that of a PIL
            image shows it upright and over white, and is the same for the same pixels.

    Raises:
        MediaError: it is missing, empty, too large, broken or no image. Without Pillow, whether a file is broken is
            left to the judge service.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.IMAGE)
    if is_instance_of(source, "numpy", "ndarray"):
        np, pillow = import_optional("numpy", ENCODING_FEATURE), import_optional("PIL.Image", ENCODING_FEATURE)
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise MediaError(
                f"image: expected a uint8 array (height, width, 3), got {source.dtype} {source.shape}; floats in 0 to "
                "1 are multiplied by 255, and channels come last"
            )
        source = pillow.fromarray(np.ascontiguousarray(source))
    if is_instance_of(source, "PIL.Image", "Image"):
        name = str(getattr(source, "filename", "")) or f"{source.width}x{source.height} image"
        check_pixels(source.width, source.height, name)
        with convert_decoder_errors(name, Modality.IMAGE):
            encoded = io.BytesIO()
            to_upright_rgb(source, name).save(encoded, "PNG", compress_level=1)
        return Media(Modality.IMAGE, encoded.getvalue(), name)
    data, name = read_source(source, Modality.IMAGE)
    if is_installed("PIL"):  # in a core install, the judge service is the one that verifies files
        with convert_decoder_errors(name, Modality.IMAGE):
            open_image(data, name).verify()  # for PNG: all checksums; decoding checks the others
    return Media(Modality.IMAGE, data, name)


def make_video(source: Any, fps: float | None = None) -> Media:
    """A video.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}`, or its frames: a sequence of
            anything that `image` takes, or a uint8 array (frames, height, width, 3).
        fps: frames per second of the frames. A file has its own.

    Raises:
        MediaError: it is missing, empty, too large, broken or no video, or `fps` is missing or one too many.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.VIDEO)
    is_array = is_instance_of(source, "numpy", "ndarray") and source.ndim == 4
    if is_array or (isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)):
        frames = list(source)
    else:
        if fps is not None:
            raise MediaError("video: fps is for frames; how a file is sampled is set by the limits (video_fps)")
        data, name = read_source(source, Modality.VIDEO)
        if is_installed("av"):
            check_container(data, name, Modality.VIDEO)
        return Media(Modality.VIDEO, data, name)
    if not frames:
        raise MediaError("video: got no frames")
    if fps is None or not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"video: frames need fps, a number of frames per second above 0, got {fps!r}")
    images = [make_image(frame) for frame in frames]
    named = tuple(replace(one, name=f"frame {i} ({one.name})") for i, one in enumerate(images))
    return Media(Modality.VIDEO, b"", f"video of {len(named)} frames", named, float(fps))


def make_audio(source: Any, rate: int | None = None) -> Media:
    """A sound.

    Args:
        source: a path, the bytes of a file, a base64 data URI, `{"bytes", "path"}` or `{"array", "sampling_rate"}` as
            data sets store audio, or an array (samples,) or (samples, channels): floats with full scale at 1, or
            int16, int32 or uint8, which are divided by theirs. Arrays become a WAV file of float32. Columns of
            `datasets` are cast with `Audio(decode=False)`, which gives bytes and path.
        rate: samples per second of an array. A file has its own.

    Raises:
        MediaError: it is missing, empty, too large, broken or no audio, an array is out of range or of another
            shape, or `rate` is missing or one too many.
    """
    if isinstance(source, Media):
        return _require_modality(source, Modality.AUDIO)
    name = "audio array"
    if isinstance(source, Mapping) and source.get("array") is not None and rate is None:
        name = str(source.get("path") or name)
        source, rate = source["array"], source.get("sampling_rate")
    if not isinstance(source, list | tuple) and not is_instance_of(source, "numpy", "ndarray"):
        if rate is not None:
            raise MediaError("audio: rate is for arrays; a file has its own")
        data, name = read_source(source, Modality.AUDIO)
        if is_installed("av"):
            check_container(data, name, Modality.AUDIO)
        return Media(Modality.AUDIO, data, name)
    np = import_optional("numpy", ENCODING_FEATURE)
    if not isinstance(rate, int | np.integer) or not 1 <= rate <= 1_000_000:
        raise MediaError(f"{name}: expected a rate in samples per second, a whole number, got {rate!r}")
    with convert_decoder_errors(name, Modality.AUDIO):
        samples = scale_samples(np.asarray(source), name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > 32):
        raise MediaError(f"{name}: expected an array (samples,) or (samples, channels), got {samples.shape}")
    check_samples(samples, name)
    with convert_decoder_errors(name, Modality.AUDIO):
        encoded = encode_wav(samples, int(rate))
    check_size(len(encoded), name, Modality.AUDIO)
    return Media(Modality.AUDIO, encoded, name)


def make_molecule(source: Any) -> Media:
    """A molecule, as SMILES. Only its form is looked at (one line, no white space), not its chemistry."""
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
"""What makes a medium of each modality, and the options it takes."""


def make_media(modality: Modality, source: Any, **options: Any) -> Media:
    """A medium of the given modality, see the function of its name; a Media of that modality passes through.

    Raises:
        MediaError: it cannot be read, is of another modality, or an option is not one of its own.
    """
    make, known = _MAKERS[modality]
    unknown = [name for name in options if name not in known or isinstance(source, Media)]
    if unknown:
        raise MediaError(f"{modality}: takes no option {unknown[0]!r} here")
    return make(source, **options)


def _require_modality(media: Media, modality: Modality) -> Media:
    if media.modality != modality:
        raise MediaError(f"{media.name}: expected {modality}, got {media.modality}")
    return media
