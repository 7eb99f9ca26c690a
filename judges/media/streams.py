"""Open video and audio files with PyAV; lengths come from the time stamps of frames and packets, not from header rates.

Only listed formats are opened: FFmpeg supports playlists, which refer to other files and hosts. As in a player, packets
that cannot be decoded are skipped; they are counted, and too many of them are an error.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.headers import MIN_COMPLETE_SHARE, has_complete_elements, remove_id3_tags

MAX_SKIPPED_SHARE = 1 - MIN_COMPLETE_SHARE
"""Maximum share of packets, and of the duration, that may be undecodable: as much as may be missing at the end."""
DURATION_TOLERANCE = 0.1
"""Seconds by which durations may differ in addition to their share; about four audio packets or three video frames."""
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,"  # video; the next line is audio only
    "wav,w64,flac,mp3,aac,aiff,au,caf,amr,nistsphere"
)
_FORMATS_WITH_TIME_STAMPS = {"mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg"}
"""Formats that store time stamps. FFmpeg computes those of other formats from the packets, sometimes incorrectly."""
_FORMATS_WITH_DURATION = {"mov", "matroska", "avi", "flac"}
"""Formats whose headers declare the duration reliably."""
_MAX_READ_ERRORS = 16
"""Number of consecutive errors of the container after which a file counts as ended."""
_MAX_BACKWARD_STEP, _MAX_FORWARD_STEP = 1.0, 60.0
"""Seconds between frames beyond which time stamps were restarted, not displaced. Steps forward count only in formats
that can be joined (MPEG, Ogg); in others, the previous frame is shown for that long."""


class MediaStream:
    """One stream of an open file, with a count of the packets that were skipped."""

    def __init__(self, data: bytes, container: Any, stream: Any, name: str, tags: int = 0) -> None:
        formats = set(container.format.name.split(","))
        self._data = data
        self.container = container
        self.stream = stream
        self.name = name
        self.is_timed = bool(formats & _FORMATS_WITH_TIME_STAMPS)
        """Whether the file stores time stamps."""
        self._has_decoding_times_only = "avi" in formats
        self._has_duration = bool(formats & _FORMATS_WITH_DURATION)
        self._last_end = 0.0
        self.packets = 0
        """Number of packets read so far."""
        self.skipped = 0
        """Number of packets that could not be decoded."""
        self._skipped_seconds = 0.0
        self.tags = tags
        """Number of ID3 tags that were removed between packets."""

    @cached_property
    def start(self) -> float:
        """Time in seconds at which playback of the file starts: the earliest start of a video or audio stream."""
        streams = [s for s in self.container.streams if s.type in ("video", "audio") and not _is_cover_art(s)]
        starts = [float(s.start_time * s.time_base) for s in streams if s.start_time is not None]
        return min(starts, default=0.0)

    def make_clock(self) -> StreamClock:
        """Create a clock that converts the stream's time stamps to seconds."""
        from av.format import Flags

        can_restart = bool(self.container.format.flags & Flags.ts_discont.value)
        return StreamClock(self, can_restart)

    def get_time_stamp(self, frame: Any) -> int | None:
        """Return the time stamp of a frame or packet in units of the stream's time base; None without one."""
        is_presented = frame.pts is not None and not self._has_decoding_times_only
        stamp: int | None = frame.pts if is_presented else frame.dts
        return stamp

    def read_packets(self) -> Iterator[Any]:
        """Read the packets of the stream; the last one is empty and makes the decoder return its last frames."""
        from av.error import FFmpegError

        errors = 0
        while errors < _MAX_READ_ERRORS:
            try:
                for packet in self.container.demux():  # All streams, because the longest one defines the duration.
                    errors = 0
                    if (time := self.get_time_stamp(packet)) is not None:
                        end = (time + (packet.duration or 0)) * packet.time_base
                        self._last_end = max(self._last_end, float(end))
                    if packet.stream_index == self.stream.index:
                        self.packets += packet.size > 0
                        yield packet
                return
            except FFmpegError:
                errors += 1
                self.packets += 1
                self.skipped += 1

    def decode_frames(self) -> Iterator[Any]:
        """Decode the frames of the stream and skip packets that cannot be decoded."""
        from av.error import FFmpegError

        for packet in self.read_packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                self.skipped += 1
                self._skipped_seconds += float((packet.duration or 0) * packet.time_base) if packet.size else 0.0
                continue
            yield from frames

    def check_skipped_packets(self, seconds: float) -> None:
        """Check that nearly all packets were decoded; call it after the last frame.

        One packet may always be damaged, because a share of a short file can be less than a packet.

        Args:
            seconds: duration of the stream.
        """
        is_short_loss = self._skipped_seconds <= MAX_SKIPPED_SHARE * seconds + DURATION_TOLERANCE
        if self.skipped > max(1, MAX_SKIPPED_SHARE * self.packets) or not is_short_loss:
            raise MediaError(
                f"{self.name}: is damaged: {self.skipped} of {self.packets} packets cannot be decoded; at most "
                f"{MAX_SKIPPED_SHARE:.0%} of packets and of seconds may be missing; replace the file"
            )

    def describe_skipped_packets(self) -> tuple[str, ...]:
        """Describe what was skipped, as notes for the judgment."""
        notes = []
        if self.skipped:
            verb = "was" if self.skipped == 1 else "were"
            notes.append(f"{self.skipped} of {self.packets} packets could not be decoded and {verb} skipped")
        if self.tags:
            notes.append(f"{self.tags} ID3 {'tag' if self.tags == 1 else 'tags'} between packets skipped")
        return tuple(notes)

    def check_end(self, clock: StreamClock) -> float:
        """Check that a stream ends about where its header declares, for formats with reliable headers.

        Call it after the last frame, because a container without the duration of each stream ends with its longest.

        Args:
            clock: clock of the decoded frames.

        Returns:
            Time in seconds until which a player shows the last frame.
        """
        if not self._has_duration:
            return clock.end
        declared, last = 0.0, clock.latest_end
        if self.stream.duration is not None:
            declared = float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base)
        elif self.container.duration is not None:
            declared = self.container.duration / 1e6  # from microseconds
            last = max(last, self._last_end)
        formats = self.container.format.name
        if last < MIN_COMPLETE_SHARE * declared - DURATION_TOLERANCE:
            if "matroska" not in formats or not has_complete_elements(self._data):
                raise MediaError(
                    f"{self.name}: is truncated: ends at {last:.1f} of the {declared:.1f} s declared in its header"
                )
            return declared if len(self.container.streams) == 1 else clock.end
        # MP4 files store durations in the order of decoding, so that of the last frame may belong to another one.
        return max(declared, clock.last) if "mov" in formats and self.stream.duration is not None else clock.end


class StreamClock:
    """Converts time stamps to seconds that never decrease, across missing and restarted time stamps."""

    def __init__(self, opened: MediaStream, can_restart: bool) -> None:
        self._opened = opened
        self._time_base = opened.stream.time_base
        self._can_restart = can_restart
        self._offset = 0.0
        self._is_started = False
        self.last = 0.0
        """Start of the last frame in seconds."""
        self.end = 0.0
        """End of the last frame in seconds."""
        self.latest_end = 0.0
        """Latest end of any frame in seconds."""

    def place_frame(self, frame: Any, duration: float) -> float:
        """Return the time of the next frame in presentation order.

        Args:
            frame: decoded frame.
            duration: its duration in seconds; 0 if it is unknown.
        """
        stamp = self._opened.get_time_stamp(frame)
        time = self.end if stamp is None else float(stamp * self._time_base) + self._offset
        if self._is_started:
            is_jump = self._can_restart and time > self.end + _MAX_FORWARD_STEP
            if is_jump or time < self.last - _MAX_BACKWARD_STEP:
                self._offset += self.end - time
                time = self.end
            time = max(time, self.last)
        self._is_started = True
        self.last, self.end = time, time + duration
        self.latest_end = max(self.latest_end, self.end)
        return time


@contextmanager
def open_stream(data: bytes, name: str, kind: str) -> Iterator[MediaStream]:
    """Open the first video or audio stream of a file. Use inside `convert_decoder_errors`.

    Raises:
        MediaError: the file has no stream of this kind.
    """
    container, tags = _open_container(data), 0
    if container.format.name == "mp3":
        data, tags = remove_id3_tags(data)
        if tags:
            container.close()
            container = _open_container(data)
    with container:
        # Cover art of an audio file is a video stream too, and is skipped.
        streams = [s for s in container.streams if s.type == kind and not _is_cover_art(s)]
        if not streams:
            raise MediaError(f"{name}: contains no {kind}")
        decodable = [s for s in streams if getattr(s, "codec_context", None) is not None]
        if not decodable:
            raise MediaError(f"{name}: contains no {kind} that can be decoded; convert it to a common format")
        yield MediaStream(data, container, decodable[0], name, tags)


def _open_container(data: bytes) -> Any:
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), options=options, metadata_errors="replace")


def _is_cover_art(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)
