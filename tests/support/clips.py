"""Tiny images, videos and audio clips, generated as file contents."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from PIL import Image


def noise(height: int = 40, width: int = 60) -> Any:
    """Return noise as a uint8 array (height, width, 3), the same each time."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    """Encode an array or a PIL image as an image file."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def tone(seconds: float = 1.0, rate: int = 16_000, amplitude: float = 0.5, hertz: float = 440.0) -> Any:
    """Return a sine wave as a float32 array (samples,)."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: Any, rate: int = 16_000) -> bytes:
    """Encode floats (samples,) or (samples, channels), full scale at 1, as a 16-bit WAV file."""
    samples = np.asarray(samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def sound(samples: Any, codec: str, form: str, rate: int = 16_000) -> bytes:
    """Encode floats (samples,), full scale at 1, as an audio file of any codec."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = rate
        for piece in av.AudioResampler(stream.format, "mono", rate, frame_size=stream.frame_size or None).resample(
            frame
        ):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return buffer.getvalue()


def film(
    greys: Iterable[int],
    rate: int = 10,
    form: str = "matroska",
    codec: str = "mpeg4",
    size: tuple[int, int] = (64, 48),
    corner: tuple[int, int, int] | None = None,
    rotation: int = 0,
) -> bytes:
    """Encode a video of plain grey frames, so that the mean of a frame identifies it.

    Args:
        greys: grey value of each frame, 0 to 255.
        rate: frames per second.
        form: container format.
        codec: encoder.
        size: width and height in pixels.
        corner: colour of the upper left quarter.
        rotation: degrees counter-clockwise by which a player rotates the frames.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = 10
        if rotation:
            stream.set_display_rotation(rotation)
        for grey in greys:
            pixels = np.full((size[1], size[0], 3), grey, np.uint8)
            if corner:
                pixels[: size[1] // 2, : size[0] // 2] = corner
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
