"""Media inside rows of a file: resolve paths relative to the file's folder, or replace media by text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.media.types import Modality


def _is_media(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") in tuple(Modality)


def strip_media(value: Any) -> Any:
    """Replace media in a row by empty text, so that its structure can be checked without reading files."""
    if _is_media(value):
        return {"type": "text", "text": ""}
    if isinstance(value, Mapping):
        return {name: strip_media(v) for name, v in value.items()}
    return [strip_media(v) for v in value] if isinstance(value, list) else value


def resolve_media_paths(folder: Path, value: Any) -> Any:
    """Resolve the paths of all media in a row relative to a folder."""
    if _is_media(value) and value["type"] != Modality.MOLECULE:
        return {name: resolve_source_path(folder, v) if name == value["type"] else v for name, v in value.items()}
    if isinstance(value, Mapping):
        return {name: resolve_media_paths(folder, v) for name, v in value.items()}
    return [resolve_media_paths(folder, v) for v in value] if isinstance(value, list) else value


def resolve_source_path(folder: Path, source: Any) -> Any:
    """Resolve a media source relative to a folder; absolute paths, URIs and bytes are returned unchanged."""
    if isinstance(source, list):  # frames of a video
        return [resolve_source_path(folder, frame) for frame in source]
    if isinstance(source, Mapping) and source.get("bytes") is None and source.get("path"):  # format of data sets
        return {**source, "path": resolve_source_path(folder, source["path"])}
    if not isinstance(source, str) or source.startswith("data:") or "://" in source:
        return source
    return str(folder / source)
