"""`python -m flex_judge.judges.models.mol_llama convert|import-judge|tiny`: make checkpoints that every command here
takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flex_judge.judges.errors import ModelNotFoundError, UsageError
from flex_judge.judges.extras import require_extras


def main(argv: Sequence[str]) -> int:
    """Run one of the three; returns the exit status."""
    arguments = _build_parser().parse_args(argv)
    try:
        require_extras("Mol-LLaMA", "judge")
        if arguments.command == "convert":
            _convert_checkpoint(arguments)
        elif arguments.command == "tiny":
            from flex_judge.judges.models.mol_llama.tiny import write_tiny_model

            write_tiny_model(arguments.out)
        else:
            from flex_judge.judges.models.mol_llama.judging import import_judge_checkpoint

            import_judge_checkpoint(arguments.mol_llama, arguments.judge, arguments.out)
    except (UsageError, ModelNotFoundError) as e:
        print(e, file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


def _convert_checkpoint(arguments: argparse.Namespace) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from flex_judge.judges.models import resolve_model
    from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig
    from flex_judge.judges.models.mol_llama.convert import convert_checkpoint, read_states

    states = read_states([Path(one) for one in arguments.checkpoint])
    base = resolve_model(arguments.base) if not Path(arguments.base).is_dir() else Path(arguments.base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if arguments.config:
        config = MolLlamaConfig.from_pretrained(arguments.config)
    else:
        text = AutoConfig.from_pretrained(base).to_dict()
        text["vocab_size"] = len(tokenizer) + 2
        config = MolLlamaConfig(text_config=text, molecule_token_id=len(tokenizer) + 1)
    convert_checkpoint(states, config, tokenizer, arguments.out, arguments.rank, arguments.alpha)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flex_judge.judges.models.mol_llama", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser("convert", help="a checkpoint of Mol-LLaMA's own code, as one of ours")
    made.add_argument(
        "checkpoint",
        nargs="+",
        help="its files (.safetensors, .ckpt, .pt) or folders of them; what a later one holds counts before an earlier",
    )
    made.add_argument("--base", required=True, help="the Llama that it was made from: folder or hub id")
    made.add_argument("--config", help="folder with a configuration (default: the released 8B model's, over --base)")
    made.add_argument("--rank", type=int, default=8, help="Rank of the adapters (default: %(default)s)")
    made.add_argument("--alpha", type=int, default=32, help="Alpha of the adapters (default: %(default)s)")
    judge = commands.add_parser("import-judge", help="put a Flex-Llama judge's weights under Mol-LLaMA's adapters")
    judge.add_argument("mol_llama", help="a converted Mol-LLaMA: folder or hub id")
    judge.add_argument("judge", help="the judge: folder or hub id")
    tiny = commands.add_parser("tiny", help="a tiny model with random weights, to try commands with")
    for command in (made, judge, tiny):
        command.add_argument("--out", type=Path, required=True, help="folder for the new checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
