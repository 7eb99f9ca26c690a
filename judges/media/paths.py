"""Openers of media in rows of a file: paths relative to the file's folder, or placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.types import Media, Modality, OpenMedia


def resolve_source_path(folder: Path, source: Any) -> Any:
    """Resolve a media source relative to a folder; absolute paths, URIs and bytes are returned unchanged."""
    if isinstance(source, list):  # frames of a video
        return [resolve_source_path(folder, frame) for frame in source]
    if isinstance(source, Mapping) and source.get("bytes") is None and source.get("path"):  # format of data sets
        return {**source, "path": resolve_source_path(folder, source["path"])}
    if not isinstance(source, str) or source.startswith("data:") or "://" in source:
        return source
    return str(folder / source)


def make_folder_opener(folder: Path) -> OpenMedia:
    """Make a function that opens media of a file's rows; relative paths refer to `folder`."""

    def open_media(modality: Modality, source: Any, field: str, **options: Any) -> Media:
        if modality != Modality.MOLECULE:
            source = resolve_source_path(folder, source)
        return open_local_media(modality, source, field, **options)

    return open_media


def make_placeholder(modality: Modality, source: Any, field: str, **options: Any) -> Media:
    """Stand in for a medium, to check the structure of a row without reading files."""
    del source, options
    return Media(modality, field.encode(), field)
