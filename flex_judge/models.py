"""Embedded models for one's own scripts: where their checkpoints are. Nothing is downloaded.

Example:
    >>> import flex_judge
    >>> flex_judge.models.path("smollm2-135m").name
    'smollm2-135m-v1'
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["list_names", "path"]


def path(name: str) -> Path:
    """Return the folder of an embedded model, which transformers, TRL and vLLM load as any other checkpoint.

    The first call converts the model, which takes seconds to a minute; later ones find it in the cache folder.

    Args:
        name: name of an embedded model, see `list_names`.

    Raises:
        ModelNotFoundError: no such model, or the package with its weights is not installed.
    """
    from flex_judge.judges.models.embedded import find_embedded_model

    return find_embedded_model(name).convert_once()


def list_names() -> list[str]:
    """List the names of the embedded models.

    Example:
        >>> list_names()
        ['smollm2-135m', 'flex-smollm2-135m']
    """
    from flex_judge.judges.models.embedded import EMBEDDED

    return list(EMBEDDED)
