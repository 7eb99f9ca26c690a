"""Tiny images, videos and audio clips, generated as file contents."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image


def encode_uri(data: bytes, kind: str = "application/octet-stream") -> str:
    """Encode the content of a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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


class Pipe(io.RawIOBase):
    """Output that cannot seek, as a live recording is written: the header gets no duration."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def draw_number(number: int) -> Any:
    """Draw a number of 16 bits as white and black blocks, 8 in each of two rows."""
    bits = np.array([number >> place & 1 for place in range(16)], np.uint8).reshape(2, 8)
    return np.repeat((bits * 255).repeat(24, 0).repeat(8, 1)[:, :, None], 3, axis=2)


def read_number(pixels: Any) -> int:
    """Read the number in a frame drawn by `draw_number`, at any scale."""
    height, width = pixels.shape[:2]
    rows, columns = (np.arange(2) + 0.5) * height / 2, (np.arange(8) + 0.5) * width / 8
    bits = pixels[rows.astype(int)][:, columns.astype(int)].mean(2).ravel() > 127
    return int(sum(1 << place for place in np.flatnonzero(bits)))


def timed_film(
    times: Iterable[float],
    form: str = "matroska",
    codec: str = "libx264",
    last: float | None = None,
    is_live: bool = False,
    gop: int = 12,
    sound_seconds: float = 0.0,
    **options: str,
) -> bytes:
    """Encode a video whose frames show their own index and have given time stamps.

    Args:
        times: time of each frame in seconds.
        form: container format.
        codec: encoder.
        last: duration of the last frame, for containers that store it.
        is_live: write without seeking, so that the header gets no duration.
        gop: number of frames from one key frame to the next.
        sound_seconds: length of a sound track that starts at 0.
        **options: options of the container.
    """
    buffer = Pipe() if is_live else io.BytesIO()
    codec_options = {"x264-params": "log-level=error"} if codec == "libx264" else {}
    with av.open(buffer, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=30, options=codec_options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30 if form == "avi" else 1000)
        stream.codec_context.gop_size = gop
        if sound_seconds:
            voice = container.add_stream("libopus" if form == "webm" else "aac", rate=48_000, layout="mono")
            mux_sound(container, voice, [(0.0, tone(sound_seconds, 48_000))])
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw_number(index), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            if last is not None:
                packet.duration = round(last / packet.time_base)
            container.mux(packet)
    return buffer.content if isinstance(buffer, Pipe) else buffer.getvalue()


def mux_sound(container: Any, stream: Any, pieces: Iterable[tuple[float, Any]]) -> None:
    """Write pieces of sound (start in seconds, samples) to a stream, the last incomplete packet of each left out."""
    rate, size = stream.rate, stream.frame_size or 960
    for start, samples in pieces:
        for k in range(0, len(samples) - size + 1, size):
            piece = np.ascontiguousarray(samples[k : k + size])
            frame = av.AudioFrame.from_ndarray(piece[None], format="flt", layout="mono")
            frame.sample_rate = rate
            for converted in av.AudioResampler(stream.format, stream.layout.name, rate).resample(frame):
                converted.pts, converted.time_base = round(start * rate) + k, Fraction(1, rate)
                container.mux(stream.encode(converted))
    container.mux(stream.encode())


def timed_sound(
    pieces: Iterable[tuple[float, Any]],
    form: str = "matroska",
    codec: str = "libopus",
    rate: int = 48_000,
    layout: str = "mono",
    video_seconds: int = 0,
) -> bytes:
    """Encode pieces of sound (start in seconds, samples), and optionally a video that starts at 0."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        voice = container.add_stream(codec, rate=rate, layout=layout)
        if video_seconds:
            film_stream = container.add_stream("mpeg4", rate=10)
            film_stream.width, film_stream.height, film_stream.pix_fmt = 64, 48, "yuv420p"
            for k in range(video_seconds * 10):
                container.mux(film_stream.encode(av.VideoFrame.from_ndarray(draw_number(k), format="rgb24")))
            container.mux(film_stream.encode())
        mux_sound(container, voice, pieces)
    return buffer.getvalue()


def damage_packets(data: bytes, indices: Iterable[int], fill: bytes = b"\0") -> bytes:
    """Overwrite packets of the first stream of a file."""
    damaged = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams[0]) if packet.size]
    for index in indices:
        start = data.index(packets[index])
        damaged[start : start + len(packets[index])] = fill * len(packets[index])
    return bytes(damaged)


def png_chunk(kind: bytes, body: bytes, is_damaged: bool = False) -> bytes:
    """Encode a PNG chunk, optionally with a wrong checksum."""
    checksum = zlib.crc32(kind + body) ^ is_damaged
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
