"""A judge service with a scripted judge and without Ray, for hidden setups of documentation pages.

`python -m doc_server [SCRIPT]` listens on a free port and prints its URL. SCRIPT is `module:function`, by default
`scripts:whole_judge`, which takes all media and rubrics.
"""

from __future__ import annotations

import sys
import threading

from served import served

from flex_judge import FlexJudge


def main(script: str = "scripts:whole_judge") -> None:
    """Serve until the process ends."""
    judge = FlexJudge.from_pretrained(script, engine="scripted", max_think_tokens=400, temperature=0.0)
    with served(judge) as service:
        print(service.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
