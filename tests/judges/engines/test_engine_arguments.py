"""Arguments that are passed on to vllm's engine."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from flex_judge.experiments.cli import main
from flex_judge.judges.engines import EngineConfig, check_engine, load_engine
from flex_judge.judges.engines.vllm.arguments import list_engine_arguments, parse_engine_arguments
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.checkpoints import open_checkpoint

pytest.importorskip("vllm")
CONFIG = EngineConfig("smollm2-135m", "vllm", max_model_len=512, max_batch=4)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gpu_memory_utilization=.5", 0.5),
        ("quantization=fp8", "fp8"),
        ("enforce-eager=true", True),
        ("max_num_batched_tokens=2048", 2048),
        ("revision=null", None),
        (
            'speculative_config={"method": "ngram", "num_speculative_tokens": 4}',
            {"method": "ngram", "num_speculative_tokens": 4},
        ),
        ("cudagraph_capture_sizes=[1, 2]", [1, 2]),
        ("download_dir=a=b", "a=b"),
        ("download_dir=", ""),
    ],
)
def test_values_are_yaml(text: str, value: object) -> None:
    assert list(parse_engine_arguments([text]).values()) == [value]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("quantisation=fp8",), "did you mean 'quantization'"),
        (("unheard_of=1",), "--help-all lists them"),
        (("quantization",), "expected NAME=VALUE"),
        (("=1",), "expected NAME=VALUE"),
        (("max_num_seqs=4",), "use the setting `max_batch`"),
        (("hf_token=secret",), "HF_TOKEN"),
        (("logprobs_mode=raw_logits",), "cannot be changed"),
        (("quantization=fp8", "quantization=awq"), "given twice"),
        (("quantization=[fp8",), "no YAML"),
    ],
)
def test_errors_are_found_before_anything_starts(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_engine(replace(CONFIG, engine_arg=arguments))


@pytest.mark.parametrize("engine", ["transformers", "scripted"])
def test_other_engines_have_no_arguments(engine: str) -> None:
    with pytest.raises(UsageError, match="engine vllm"):
        check_engine(replace(CONFIG, engine=engine, engine_arg=("quantization=fp8",)))


def test_arguments_are_those_of_the_installed_class() -> None:
    from vllm.engine.arg_utils import EngineArgs

    names = {argument.name for argument in list_engine_arguments()}
    assert names < {field.name for field in fields(EngineArgs)}
    assert {"quantization", "speculative_config", "gpu_memory_utilization"} < names


def test_help_all_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help-all"])
    output = capsys.readouterr().out
    assert "--engine-arg NAME=VALUE" in output
    assert "speculative_config" in output
    assert "logprobs_mode" not in output


@pytest.mark.slow
def test_engine_runs_with_them_and_says_so_in_its_id_where_replies_may_change() -> None:
    plain = open_checkpoint(CONFIG.model).model_id
    for arguments, is_same in (
        (("block_size=64", "max_num_batched_tokens=1024"), True),
        (("block_size=64", "enable_return_routed_experts=false"), False),
    ):
        engine = load_engine(replace(CONFIG, engine_arg=arguments))
        assert engine.block_size == 64  # type: ignore[attr-defined] # of vllm engines
        assert (engine.model_id == plain) == is_same
        assert engine.model_id.startswith("smollm2-135m@")
        engine.close()
