"""Create Mol-LLaMA checkpoints: `python -m flex_judge.judges.models.mol_llama convert|import-judge|tiny`.

The checkpoints work with every flex-judge command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flex_judge.judges.errors import UsageError
from flex_judge.judges.extras import require_extras


def main(argv: Sequence[str]) -> int:
    """Run one of the three commands and return the exit status."""
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
    except UsageError as e:
        print(e, file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


def _convert_checkpoint(arguments: argparse.Namespace) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from flex_judge.judges.models import resolve_model
    from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig
    from flex_judge.judges.models.mol_llama.convert import convert_checkpoint, read_states

    states = read_states([Path(path) for path in arguments.checkpoint])
    # A base folder may hold a configuration and a tokenizer without weights, so it is not resolved as a model.
    base = Path(arguments.base) if Path(arguments.base).is_dir() else resolve_model(arguments.base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if arguments.config:
        config = MolLlamaConfig.from_pretrained(arguments.config)
    else:
        text_config = AutoConfig.from_pretrained(base).to_dict()
        text_config["vocab_size"] = len(tokenizer) + 2  # the padding token and the molecule token
        config = MolLlamaConfig(text_config=text_config, molecule_token_id=len(tokenizer) + 1)
    convert_checkpoint(states, config, tokenizer, arguments.out, rank=arguments.rank, alpha=arguments.alpha)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flex_judge.judges.models.mol_llama", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="convert a checkpoint of the original Mol-LLaMA code")
    convert.add_argument(
        "checkpoint",
        nargs="+",
        help="checkpoint files (.safetensors, .ckpt, .pt) or folders of them; later files override earlier ones",
    )
    convert.add_argument("--base", required=True, help="base Llama of the checkpoint: folder or hub id")
    convert.add_argument(
        "--config", help="folder with a configuration (default: the released 8B model's, with --base as language model)"
    )
    convert.add_argument("--rank", type=int, default=8, help="rank of the LoRA adapters (default: %(default)s)")
    convert.add_argument("--alpha", type=int, default=32, help="alpha of the LoRA adapters (default: %(default)s)")
    judge = commands.add_parser(
        "import-judge", help="replace the language model of a Mol-LLaMA by a Flex-Llama judge, keeping the adapters"
    )
    judge.add_argument("mol_llama", help="converted Mol-LLaMA: folder or hub id")
    judge.add_argument("judge", help="judge: folder or hub id")
    tiny = commands.add_parser("tiny", help="write a tiny model with random weights, for trying out commands")
    for command in (convert, judge, tiny):
        command.add_argument("--out", type=Path, required=True, help="folder for the new checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
