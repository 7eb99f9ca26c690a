"""Download or convert models ahead of time: `python -m flex_judge.judges.models NAME ...` prints their folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.models import resolve_model


def main(arguments: Sequence[str]) -> int:
    """Resolve every named model, print its folder, and return the exit status."""
    try:
        for name in arguments:
            print(resolve_model(name))
    except ModelNotFoundError as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
