"""Opening media: from wherever they come to bytes, and from bytes to what a decoder gives, with every fault named.

What is opened comes from data sets and policies. So sizes are checked before anything is decoded, and only listed
formats are opened: Pillow knows some that run other programs (EPS), FFmpeg knows play lists, which name other files
and hosts.
"""

from __future__ import annotations

import base64
import io
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from flex_judge.judges.errors import MediaError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MIB = 1 << 20
MAX_BYTES = {"image": 64 * MIB, "video": 1024 * MIB, "audio": 256 * MIB}
"""Size of the largest file of each modality."""
MAX_PIXELS = 89_000_000
"""Of an image, or of one frame of a video. Just below where Pillow begins to warn of decompression bombs."""
MAX_AMPLITUDE = 2.0
"""Largest amplitude of audio in floats. Full scale is 1, which decoders and resamplers overshoot by a little."""
MIN_COMPLETE_SHARE = 0.95
"""The share of what its header announces that a file must hold. Headers are a little off now and then; a file that
was cut short would be judged by its beginning."""
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,"  # and those that hold audio alone:
    "wav,w64,flac,mp3,aac,aiff,au,caf,amr,nistsphere"
)


@contextmanager
def convert_decoder_errors(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises within into a MediaError that names the medium.

    Decoders raise nearly anything on broken files: OSError, ValueError, SyntaxError, struct.error.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        unknown = type(error).__name__ == "UnidentifiedImageError"  # Pillow's; its text is the address of a buffer
        reason = "unknown format" if unknown else getattr(error, "strerror", None) or str(error) or repr(error)
        raise MediaError(f"{name}: cannot be read as {kind}: {reason.splitlines()[0]}") from error


def read_source(source: Any, kind: str) -> tuple[bytes, str]:
    """The bytes of a file in any of the forms in which it may come, and its name; neither empty nor too large."""
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
    announced = _read_declared_size(data)
    if len(data) < MIN_COMPLETE_SHARE * announced:
        raise MediaError(f"{name}: is cut short: {len(data)} bytes of the {announced} that its header announces")
    return data, name


def _decode_data_uri(uri: str, kind: str) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma or not header.endswith(";base64"):
        raise MediaError(f"{kind}: expected a data URI 'data:TYPE;base64,...', got {uri[:60]!r}")
    try:
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except ValueError as error:
        raise MediaError(f"{kind}: {header:.60},...: {error}") from error


def _read_path(name: str, kind: str) -> bytes:
    if name.startswith(("http://", "https://")):
        raise MediaError(f"{name:.200}: download it first; a judgment does not depend on the network")
    path = Path(unquote(name.removeprefix("file://"))) if name.startswith("file://") else Path(name)
    try:
        size = path.stat().st_size
        if path.is_file():
            check_size(size, name, kind)
            return path.read_bytes()
    except MediaError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{_format_name(name)}: cannot be read: {reason}") from error
    raise MediaError(f"{name}: is a {'folder' if path.is_dir() else 'device'}, not a file")


def _format_name(name: str) -> str:
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


def _read_declared_size(data: bytes) -> int:
    """Bytes that a WAV, AVI, WebP or AIFF file should have, 0 if it does not say. FFmpeg would play what is left."""
    order: Literal["little", "big"] = "big" if data[:4] == b"FORM" else "little"
    size = int.from_bytes(data[4:8], order) if data[:4] in (b"RIFF", b"FORM") else 0
    return size + 8 if 0 < size < 0x7FFF_0000 else 0  # larger: written to a pipe, length unknown


def check_size(size: int, name: str, kind: str) -> None:
    """Refuse an empty file and one above the limit of its modality."""
    if not size:
        raise MediaError(f"{name}: is empty")
    if size > MAX_BYTES[kind]:
        raise MediaError(f"{name}: {size / MIB:.1f} MiB are more than the {MAX_BYTES[kind] // MIB} MiB allowed")


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse an image without pixels and one with too many."""
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name}: {width}x{height} pixels are more than the {MAX_PIXELS} allowed; scale it down")
    if not width * height:
        raise MediaError(f"{name}: has no pixels ({width}x{height})")


def open_image(data: bytes, name: str) -> Image.Image:
    """The image in a file, its header read and its size checked, its pixels not yet decoded. Use within `reading`."""
    from PIL import Image

    opened = Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS)
    check_pixels(opened.width, opened.height, name)
    return opened


def to_upright_rgb(source: Image.Image, name: str) -> Image.Image:
    """A copy of an image as people see it: turned as its EXIF data say, transparent parts over white, in 8-bit RGB."""
    import numpy as np
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(source)
    if upright.mode in ("I", "F"):
        raise MediaError(f"{name}: pixels of 32 bits have no agreed range; convert them to 8 bits")
    if upright.mode.startswith("I;16"):  # Pillow would clip these to 255
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    rgb = upright.convert("RGB")
    rgb.info = {}  # colour profiles, comments: what would make files of the same pixels differ
    return rgb


@contextmanager
def open_stream(data: bytes, name: str, kind: str) -> Iterator[tuple[Any, Any]]:
    """The PyAV container and stream of a video or audio file. Errors of decoding within become MediaErrors."""
    import av
    from av.stream import Disposition

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    with convert_decoder_errors(name, kind), av.open(io.BytesIO(data), options=options) as container:
        streams = [s for s in container.streams if s.type == kind]
        # The picture on an album's cover is no video.
        streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise MediaError(f"{name}: holds no {kind}")
        yield container, streams[0]


def check_container(data: bytes, name: str, kind: str) -> None:
    """A video or audio file opens, and the first frame of its stream can be decoded."""
    with open_stream(data, name, kind) as (container, stream):
        if kind == "video":
            check_pixels(stream.width, stream.height, name)
        if next(container.decode(stream), None) is None:
            raise MediaError(f"{name}: holds no {kind} that can be decoded")


def check_duration(name: str, container: Any, stream: Any, seconds: float) -> None:
    """Refuse a file that is much shorter than its header announces, where headers of its format can be relied on."""
    if not {"mov", "matroska", "avi", "flac"} & set(container.format.name.split(",")):
        return
    announced = 0.0
    if stream.duration is not None:
        announced = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:  # else it may be that of another stream
        announced = container.duration / 1e6  # from microseconds
    if seconds < MIN_COMPLETE_SHARE * announced - 0.1:
        raise MediaError(f"{name}: is cut short: {seconds:.1f} s of the {announced:.1f} s that its header announces")


def scale_samples(samples: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Audio samples as float32 with full scale at 1: integers are divided by theirs, floats stay as they are."""
    import numpy as np

    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which `check_samples` refuses
            return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype in (np.int16, np.int32):
        return (samples / float(2 ** (8 * samples.itemsize - 1))).astype(np.float32)
    raise MediaError(f"{name}: expected samples as floats, int16, int32 or uint8, got {samples.dtype}")


def check_samples(samples: NDArray[np.float32], name: str) -> None:
    """Refuse no samples, samples that are not numbers, and amplitudes that only integers have."""
    import numpy as np

    if not samples.size:
        raise MediaError(f"{name}: holds no samples")
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise MediaError(f"{name}: holds samples that are infinite or not a number")
    if peak > MAX_AMPLITUDE:
        raise MediaError(f"{name}: reaches {peak:g} where full scale is 1; are these integers? Divide by 32768")


def encode_wav(samples: NDArray[np.float32], rate: int) -> bytes:
    """Encode audio as a WAV file of 32-bit floats, byte for byte as scipy.io.wavfile writes it.

    Args:
        samples: shape (samples,) or (samples, channels).
        rate: samples per second.
    """
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    body = samples.astype("<f4").tobytes()
    frame_bytes = 4 * channels
    float_format, bits = 3, 32  # WAVE_FORMAT_IEEE_FLOAT
    header = struct.pack(
        "<4sIHHIIHHH", b"fmt ", 18, float_format, channels, rate, rate * frame_bytes, frame_bytes, bits, 0
    )
    header += struct.pack("<4sII", b"fact", 4, len(samples)) + struct.pack("<4sI", b"data", len(body))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(header) + len(body), b"WAVE") + header + body
