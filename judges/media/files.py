"""Read media files and check their sizes and samples, with a MediaError for every problem.

Files come from data sets and policies and are not trusted: sizes are checked before anything is decoded.
"""

from __future__ import annotations

import base64
import io
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.headers import MIN_COMPLETE_SHARE, is_truncated_gif, read_declared_size
from flex_judge.judges.media.side_data import iterate_readable_forms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MIB = 1 << 20
MAX_BYTES = {"image": 64 * MIB, "video": 1024 * MIB, "audio": 256 * MIB}
"""Modality -> maximum file size in bytes."""
MAX_PIXELS = 89_000_000
"""Maximum pixels of an image or video frame, just below Pillow's warning for decompression bombs."""
MAX_AMPLITUDE = 2.0
"""Maximum amplitude of float audio. Full scale is 1, and decoders and resamplers overshoot it slightly."""
_ORIENTATION = 0x0112
"""EXIF tag of the rotation; 1 means none."""
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


@contextmanager
def convert_decoder_errors(name: str, kind: str) -> Iterator[None]:
    """Convert all errors of a decoder in the `with` block to a MediaError that names the file.

    Decoders raise many error types for damaged files: OSError, ValueError, SyntaxError, struct.error.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if type(error).__name__ == "UnidentifiedImageError":  # Pillow's message only names a buffer address.
            reason = "unknown format"
        else:
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise MediaError(f"{name}: cannot be read as {kind}: {reason.splitlines()[0]}") from error


def read_source(source: Any, kind: str) -> tuple[bytes, str]:
    """Read the bytes of a media file.

    Args:
        source: a path, bytes, a base64 data URI, or `{"bytes", "path"}` as data sets store media.
        kind: modality, for the size limit and error messages.

    Returns:
        The bytes, and a name for error messages.

    Raises:
        MediaError: the file is missing, empty, too large or truncated.
    """
    name = ""
    if isinstance(source, Mapping):
        name = str(source.get("path") or "")
        source = name if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or f"{kind} in memory"
    elif isinstance(source, str) and source.startswith("data:"):
        data, name = _decode_data_uri(source, kind), f"{kind} in a data URI"
    elif isinstance(source, str | os.PathLike) and os.fspath(source):
        name = os.fsdecode(source)
        data = _read_path(name, kind)
    else:
        got = "an empty text" if isinstance(source, str) else type(source).__name__
        raise MediaError(f"{kind}: expected a path, bytes or a data URI, got {got}")
    check_size(len(data), name, kind)
    check_complete(data, name)
    return data, name


def _decode_data_uri(uri: str, kind: str) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma or not header.endswith(";base64"):
        raise MediaError(f"{kind}: expected a data URI 'data:TYPE;base64,...', got {uri[:60]!r}")
    try:
        # URIs may be percent-encoded and wrapped over lines.
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except ValueError as error:
        raise MediaError(f"{kind}: {header:.60},...: {error}") from error


def _read_path(name: str, kind: str) -> bytes:
    if name.startswith(("http://", "https://")):
        raise MediaError(f"{name:.200}: download it first; media are not fetched from the network")
    path = Path(unquote(name.removeprefix("file://"))) if name.startswith("file://") else Path(name)
    try:
        size = path.stat().st_size
        if path.is_file():
            check_size(size, name, kind)
            return path.read_bytes()
    except MediaError:
        raise
    except (OSError, ValueError) as error:  # ValueError for a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{_format_name(name)}: cannot be read: {reason}") from error
    raise MediaError(f"{name}: is a {'folder' if path.is_dir() else 'device'}, not a file")


def _format_name(name: str) -> str:
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


def check_size(size: int, name: str, kind: str) -> None:
    """Check that a file is neither empty nor above the size limit of its modality."""
    if not size:
        raise MediaError(f"{name}: is empty")
    if size > MAX_BYTES[kind]:
        raise MediaError(f"{name}: {size / MIB:.1f} MiB are more than the {MAX_BYTES[kind] // MIB} MiB allowed")


def check_complete(data: bytes, name: str) -> None:
    """Check that a file has about the size declared in its header, for formats that declare one; GIF has blocks."""
    if is_truncated_gif(data):
        raise MediaError(f"{name}: is truncated: its last block is not complete")
    declared = read_declared_size(data)
    if len(data) < MIN_COMPLETE_SHARE * declared:
        raise MediaError(f"{name}: is truncated: has {len(data)} of the {declared} bytes declared in its header")


def check_pixels(width: int, height: int, name: str) -> None:
    """Check that an image has pixels, but not too many."""
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name}: {width}x{height} pixels are more than the {MAX_PIXELS} allowed; scale it down")
    if not width * height:
        raise MediaError(f"{name}: has no pixels ({width}x{height})")


def open_image(data: bytes, name: str) -> Image.Image:
    """Open an image file and check its size without decoding the pixels. Use inside `convert_decoder_errors`.

    Damaged side data are ignored. Only listed formats are opened, because Pillow supports formats that run other
    programs (EPS).
    """
    from PIL import Image

    errors: list[Exception] = []
    for form in iterate_readable_forms(data):
        try:
            image = Image.open(io.BytesIO(form), formats=_IMAGE_FORMATS)
        except Exception as error:  # noqa: BLE001 - the first error is raised below
            errors.append(error)
            continue
        check_pixels(image.width, image.height, name)
        return image
    raise errors[0]


def to_upright_rgb(source: Image.Image, name: str, in_place: bool = False) -> Image.Image:
    """Convert an image to what people see: rotated as in its EXIF data, transparency over white, as 8-bit RGB.

    Args:
        source: the image.
        name: name for error messages.
        in_place: whether the source may be changed and returned, which saves the memory of copies.
    """
    import numpy as np
    from PIL import Image

    upright = _rotate_upright(source, in_place)
    if upright.mode in ("I", "F"):
        raise MediaError(f"{name}: 32-bit pixels have no standard value range; convert them to 8 bits")
    if upright.mode.startswith("I;16"):  # Pillow's own conversion would clip values to 255.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    rgb = upright if in_place and upright.mode == "RGB" else upright.convert("RGB")
    rgb.info = {}  # Colour profiles and comments would give equal pixels different hashes.
    return rgb


def _rotate_upright(source: Image.Image, in_place: bool) -> Image.Image:
    """Copy an image, rotated as in its EXIF data; unreadable EXIF data are ignored, as viewers do."""
    from PIL import ImageOps

    source.load()  # Damaged pixels must not be mistaken for damaged EXIF data.
    with suppress(Exception):  # Pillow's parser raises many error types.
        if in_place and source.getexif().get(_ORIENTATION, 1) == 1:
            return source
        return ImageOps.exif_transpose(source)
    return source if in_place else source.copy()


def scale_samples(samples: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Convert audio samples to float32 with full scale at 1; floats are not scaled."""
    import numpy as np

    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # Overflow gives inf, which `check_samples` rejects.
            return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype in (np.int16, np.int32):
        return (samples / float(2 ** (8 * samples.itemsize - 1))).astype(np.float32)
    raise MediaError(f"{name}: expected samples of type float, int16, int32 or uint8, got {samples.dtype}")


def check_samples(samples: NDArray[np.float32], name: str) -> None:
    """Check that there are samples, that they are finite, and that their amplitude fits a full scale of 1."""
    import numpy as np

    if not samples.size:
        raise MediaError(f"{name}: contains no samples")
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise MediaError(f"{name}: contains samples that are infinite or NaN")
    if peak > MAX_AMPLITUDE:
        raise MediaError(f"{name}: amplitude {peak:g} exceeds full scale (1); divide 16-bit integers by 32768")


def encode_wav(samples: NDArray[np.float32], rate: int) -> bytes:
    """Encode audio as a WAV file of 32-bit floats, byte for byte like scipy.io.wavfile.

    Args:
        samples: shape (samples,) or (samples, channels).
        rate: samples per second.
    """
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    body = samples.astype("<f4").tobytes()
    frame_bytes = 4 * channels
    float_format, bits = 3, 32  # WAVE_FORMAT_IEEE_FLOAT
    # Floats are not PCM, so the format needs an extension size (0) and a `fact` chunk with the number of samples.
    header = struct.pack(
        "<4sIHHIIHHH", b"fmt ", 18, float_format, channels, rate, rate * frame_bytes, frame_bytes, bits, 0
    )
    header += struct.pack("<4sII", b"fact", 4, len(samples)) + struct.pack("<4sI", b"data", len(body))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(header) + len(body), b"WAVE") + header + body
