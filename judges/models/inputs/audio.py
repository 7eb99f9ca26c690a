"""Audio decoding for audio encoders: 16 kHz mono, with gaps in the time stamps as silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import check_complete, check_samples, convert_decoder_errors, scale_samples
from flex_judge.judges.media.headers import split_joined_files
from flex_judge.judges.media.prepared import SAMPLE_RATE
from flex_judge.judges.media.streams import open_stream
from flex_judge.judges.media.types import Media

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_GAP_SECONDS = 0.1
"""Gaps up to this length are ignored: time stamps are rounded, and recorders' clocks are not exact."""
MAX_SAMPLE_RATE = 1_000_000
"""Maximum samples per second, as for arrays. Resampling from more takes minutes."""
MAX_GAP_SECONDS = 60.0
"""Maximum length of silence for one gap. Longer gaps are shortened, because a wrong time stamp can state days."""


def decode_audio(media: Media, max_seconds: float) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Decode audio, average its channels, and resample it to 16 kHz.

    Args:
        media: audio file.
        max_seconds: maximum length in seconds.

    Returns:
        Samples of shape (samples,), and notes on packets that were skipped and on gaps.

    Raises:
        MediaError: the audio is broken or too long.
    """
    track = _Track(media.name, max_seconds)
    notes: list[str] = []
    for part in split_joined_files(media.data):
        check_complete(part, media.name)
        with (
            convert_decoder_errors(media.name, media.modality),
            open_stream(part, media.name, media.modality) as opened,
        ):
            clock, earlier_seconds = opened.make_clock(), track.seconds
            for frame in opened.decode_frames():
                time = clock.place_frame(frame, frame.samples / frame.sample_rate)
                if opened.is_timed:
                    track.append_silence(earlier_seconds + time - opened.start - track.seconds, frame.sample_rate)
                track.append(_mix_to_mono(frame, media.name), frame.sample_rate)
            opened.check_skipped_packets(track.seconds - earlier_seconds)
            opened.check_end(clock)
            notes += opened.describe_skipped_packets()
    samples = track.finish()
    check_samples(samples, media.name)
    return samples, (*notes, *track.describe_gaps())


class _Track:
    """Samples at 16 kHz, appended at any sample rate."""

    def __init__(self, name: str, max_seconds: float) -> None:
        self._name = name
        self._max_seconds = max_seconds
        self._pieces: list[NDArray[np.float32]] = []
        self._resampler: Any = None
        self._rate = 0
        self._earlier_seconds = 0.0
        self._count = 0
        self._silence = self._dropped_silence = 0.0

    @property
    def seconds(self) -> float:
        """Length of the appended samples."""
        # Seconds are computed from an integer, because a sum of many durations would be inexact.
        return self._earlier_seconds + (self._count / self._rate if self._rate else 0.0)

    def append(self, samples: NDArray[np.float32], rate: int) -> None:
        """Append samples of a sample rate, which may differ from that of the previous ones."""
        import av

        if rate > MAX_SAMPLE_RATE:
            raise MediaError(
                f"{self._name}: has {rate} samples per second, more than {MAX_SAMPLE_RATE}; check the file"
            )
        if rate != self._rate:
            self._flush()
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._rate = rate
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate
        self._pieces += [piece.to_ndarray()[0] for piece in self._resampler.resample(frame)]
        self._count += len(samples)
        if self.seconds > self._max_seconds + 1e-6:
            raise MediaError(f"{self._name}: is longer than {self._max_seconds:g} s; cut it or raise audio_max_seconds")

    def append_silence(self, seconds: float, rate: int) -> None:
        """Append silence for a gap, up to a maximum length; short gaps are ignored."""
        import numpy as np

        # Silence that was dropped from earlier gaps must not be missed again by each following frame.
        gap = seconds - self._dropped_silence
        if gap <= MIN_GAP_SECONDS:
            return
        silence = min(gap, MAX_GAP_SECONDS)
        self._dropped_silence += gap - silence
        self._silence += silence
        self.append(np.zeros(round(silence * rate), np.float32), rate)

    def finish(self) -> NDArray[np.float32]:
        """Return all samples at 16 kHz."""
        import numpy as np

        self._flush()
        return np.concatenate([*self._pieces, np.empty(0, np.float32)])

    def describe_gaps(self) -> tuple[str, ...]:
        """Describe the silence for gaps, as notes for the judgment."""
        if not self._silence:
            return ()
        dropped = f"; {self._dropped_silence:.1f} s more were left out" if self._dropped_silence else ""
        return (f"gaps in its time stamps became {self._silence:.1f} s of silence{dropped}",)

    def _flush(self) -> None:
        """Append the samples that the resampler still holds."""
        if self._resampler is not None:
            self._pieces += [piece.to_ndarray()[0] for piece in self._resampler.resample(None)]
        self._earlier_seconds, self._count = self.seconds, 0


def _mix_to_mono(frame: Any, name: str) -> NDArray[np.float32]:
    """Average the channels of a decoded frame into an array of shape (samples,)."""
    # FFmpeg's own conversion of float stereo to mono adds 3 dB.
    samples = frame.to_ndarray()  # planar: (channels, samples); packed: (1, samples * channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mono: NDArray[np.float32] = scale_samples(samples, name).mean(axis=0)
    return mono
