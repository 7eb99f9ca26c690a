"""Openers of media in rows of a file: paths relative to the file's folder, or placeholders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.types import Media, Modality, OpenMedia

MediaFolders = Path | tuple[Path, ...]
"""Folder that relative paths refer to, or several that are searched in order."""
_MAX_LINKS = 40
"""Maximum number of links from one to the next, as in Linux."""


def list_media_folders(path: Path) -> tuple[Path, ...]:
    """List the folders that relative paths in a file refer to.

    Caches of the hub hold links: `snapshots/REVISION/data.jsonl` points to `blobs/HASH`, and media are next to the
    link. So the folder of the path that the user gave comes first, then that of each file which a link points to.
    """
    folders = {os.path.realpath(path.parent): path.parent}
    for _ in range(_MAX_LINKS):  # Links may form a circle, which is an error when the file is opened.
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
        folders.setdefault(os.path.realpath(path.parent), path.parent)
    return tuple(folders.values())


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


def make_folder_opener(folder: MediaFolders) -> OpenMedia:
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
