"""Media inside rows of a file: resolve paths relative to the file's folder, or replace media by text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.media.types import Modality

MediaFolders = Path | tuple[Path, ...]
"""Folder that relative paths refer to, or several that are searched in order."""


def list_media_folders(path: Path) -> tuple[Path, ...]:
    """List the folders that relative paths in a file refer to.

    Caches of the hub hold links: `snapshots/REVISION/data.jsonl` points to `blobs/HASH`, and media are next to the
    link. So the folder of the path that the user gave comes first, then that of the file which a link points to.
    """
    folder, target_folder = path.parent, path.resolve().parent
    return (folder,) if folder.resolve() == target_folder else (folder, target_folder)


def _is_media(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") in tuple(Modality)


def strip_media(value: Any) -> Any:
    """Replace media in a row by empty text, so that its structure can be checked without reading files."""
    if _is_media(value):
        return {"type": "text", "text": ""}
    if isinstance(value, Mapping):
        return {name: strip_media(v) for name, v in value.items()}
    return [strip_media(v) for v in value] if isinstance(value, list) else value


def resolve_media_paths(folder: MediaFolders, value: Any) -> Any:
    """Resolve the paths of all media in a row relative to a folder, or to the first of several that has the file."""
    if _is_media(value) and value["type"] != Modality.MOLECULE:
        return {name: resolve_source_path(folder, v) if name == value["type"] else v for name, v in value.items()}
    if isinstance(value, Mapping):
        return {name: resolve_media_paths(folder, v) for name, v in value.items()}
    return [resolve_media_paths(folder, v) for v in value] if isinstance(value, list) else value


def resolve_source_path(folder: MediaFolders, source: Any) -> Any:
    """Resolve a media source relative to a folder; absolute paths, URIs and bytes are returned unchanged.

    If there are several folders, the first one counts that has the file, or else the first one.
    """
    if isinstance(source, list):  # frames of a video
        return [resolve_source_path(folder, frame) for frame in source]
    if isinstance(source, Mapping) and source.get("bytes") is None and source.get("path"):  # format of data sets
        return {**source, "path": resolve_source_path(folder, source["path"])}
    if not isinstance(source, str) or source.startswith("data:") or "://" in source:
        return source
    folders = (folder,) if isinstance(folder, Path) else folder
    paths = [str(candidate / source) for candidate in folders]
    return next((path for path in paths if os.path.exists(path)), paths[0]) if len(paths) > 1 else paths[0]
