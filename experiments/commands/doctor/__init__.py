"""`flex-judge doctor`: show what this machine can run and what is missing, or the same for a remote judge."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a table")
    parser.add_argument(
        "--model", metavar="URL#NAME", help="Check this model on your own server instead of this machine"
    )
    parser.add_argument(
        "--model-key", metavar="env:NAME|FILE", help="API key of that server: an environment variable or a file"
    )
    parser.add_argument(
        "--model-tokenizer",
        metavar="MODEL",
        help="Tokenizer of that model: folder or hub id (default: the model that the server names)",
    )


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.model is not None:
        from flex_judge.experiments.commands.doctor.remote import main as run_remote
        from flex_judge.judges.engines.base import EngineConfig

        config = EngineConfig(options.model, model_key=options.model_key, model_tokenizer=options.model_tokenizer)
        return run_remote(config, as_json=options.json)
    from flex_judge.experiments.commands.doctor.run import main as run

    return run(as_json=options.json)
