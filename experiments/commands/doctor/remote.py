"""Checks of a remote judge: whether its server can be reached, and whether it can judge with token ids.

Each check needs the one before it, so the first that fails is the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from flex_judge.experiments.commands.doctor.view import Check, print_json, print_rows
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.engines.remote.probing import ServerModel, ServerProbe
from flex_judge.judges.errors import JudgeError, UsageError, to_one_line
from flex_judge.judges.extras import require_extras

NAMES = ("server", "extra", "tokenizer", "judging")
"""Names of the checks, in order."""


def check_remote_judge(config: EngineConfig) -> list[Check]:
    """Run the checks up to the first that fails.

    Args:
        config: the model with its address, the source of its key, and the tokenizer if it is not the one that the
            server names.

    Raises:
        UsageError: the model is not an address, or its key cannot be read.
    """
    if not config.is_remote:
        raise UsageError(f"--model {config.model}: expected the address of a model, such as http://HOST:8000/v1#NAME")
    checks: list[Check] = []
    with ServerProbe(config) as probe:
        try:
            for name, detail in zip(NAMES, _describe_steps(config, probe), strict=True):
                checks.append(Check(name, "ok", detail))
        except JudgeError as e:
            checks.append(Check(NAMES[len(checks)], "missing", to_one_line(e)))
    return checks


def main(config: EngineConfig, as_json: bool) -> int:
    """Run and print the checks of a remote judge.

    Args:
        config: the model, see `check_remote_judge`.
        as_json: print one JSON object instead of a table.

    Returns:
        The exit status: 0 if the model can judge, else 1.
    """
    checks = check_remote_judge(config)
    obstacles = [check.name for check in checks if check.status == "missing"]
    if as_json:
        print_json(checks, obstacles)
    else:
        print_rows(checks)
        print("This model cannot judge yet (above)" if obstacles else "This model can judge: pass it as --model")
    return int(bool(obstacles))


def _describe_steps(config: EngineConfig, probe: ServerProbe) -> Iterator[str]:
    """Run one check after the other and yield a description of what it found.

    Raises:
        JudgeError: the check failed.
    """
    model = probe.find_model()
    yield _describe_model(model)
    require_extras("a remote judge", "remote")
    yield "remote"
    # Imported only now, because it needs the extra.
    from flex_judge.judges.engines.remote.engine import find_tokenizer
    from flex_judge.judges.models.tokenizers import load_tokenizer

    tokenizer_name = probe.name_tokenizer(model)
    tokenizer = load_tokenizer(find_tokenizer(config, tokenizer_name))
    probe.check_tokenizer(model, tokenizer, tokenizer_name)
    yield f"{tokenizer_name}, the same as the server's"
    probe.check_token_level(model, tokenizer)
    yield "level tokens: token ids, grammars and log-probabilities of any token; text only, no media"


def _describe_model(model: ServerModel) -> str:
    length = "unknown" if model.max_model_len is None else f"{model.max_model_len} tokens"
    software, weights = model.software or "software unknown", model.root or "files it does not name"
    return f"{model.url} answers ({software}); {model.name!r} has the weights of {weights}; context: {length}"
