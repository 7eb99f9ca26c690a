"""Text of prompts, for tests that compare it."""

from __future__ import annotations

from collections.abc import Sequence

from flex_judge.judges.media.types import Media
from flex_judge.judges.protocol.turns import Span


def join_pieces(pieces: Sequence[Span | Media]) -> str:
    """Join the pieces of a turn; a medium becomes its name in angle brackets."""
    return "".join(piece.text if isinstance(piece, Span) else f"<{piece.name}>" for piece in pieces)
