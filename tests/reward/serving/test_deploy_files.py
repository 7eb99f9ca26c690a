"""Files in docs/operations/deploy: images, compose file, systemd unit, dashboard and alert rules fit the project."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import DOCS, ROOT

from flex_judge.experiments.cli import _build_parser as build_parser
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.common.flags import load_config
from flex_judge.reward.server.prometheus import list_series
from flex_judge.reward.server.request_log import PROBES

DEPLOY = DOCS / "operations" / "deploy"
DOCKERFILES = sorted(p for p in DEPLOY.glob("Dockerfile*") if p.suffix != ".dockerignore")
HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?/")
"""Host of a registry in the name of an image."""


def parse_dockerfile(path: Path) -> list[tuple[str, str]]:
    """Return the instructions with their arguments; continued lines are joined, comments dropped."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    pairs = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, value.strip()) for name, _, value in pairs]


def check_serve_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServeRun:
    """Parse the arguments of `flex-judge serve` and build its settings, with a key that exists."""
    key = tmp_path / "key"
    key.write_text("a-key")
    arguments = [str(key) if "api-key" in a and not a.startswith("--") else a for a in arguments]
    assert arguments[0] == "serve"
    return load_config(ServeRun, build_parser("serve").parse_args(arguments))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_image_files(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    instructions = parse_dockerfile(path)
    names = [name for name, _ in instructions]
    values = dict(instructions)
    assert set(names) <= {
        "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    base = values["FROM"]
    assert not HOST.match(base)
    assert re.fullmatch(r"python:3\.1[1-3]-slim", base)
    copied = set()
    for name, value in instructions:
        if name == "COPY":
            *sources, _ = value.split()
            copied |= set(sources)
            assert all((ROOT / source).exists() for source in sources), value
    # The user is not root, and commands of the build run before the user is set.
    assert values["USER"].isdecimal()
    assert int(values["USER"]) > 0
    assert "RUN" not in names[names.index("USER") :]
    health = values["HEALTHCHECK"]
    port = values["EXPOSE"]
    assert f"http://127.0.0.1:{port}{PROBES[0]}" in health
    assert not re.search(r"(?i)api.?key\s*=|token\s*=|ARG ", path.read_text())
    entry, command = json.loads(values["ENTRYPOINT"]), json.loads(values["CMD"])
    assert entry[0] == "flex-judge"
    config = check_serve_command([*entry[1:], *command], monkeypatch, tmp_path)
    assert (config.host, str(config.port)) == ("0.0.0.0", port)
    # Docker reads the ignore file next to the Dockerfile; it lets through exactly what is copied.
    ignore = [line for line in path.with_name(f"{path.name}.dockerignore").read_text().splitlines() if line]
    assert ignore[1] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    # Extras that the build installs exist.
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"--extra ([\w-]+)", path.read_text()):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    for group in re.findall(r"--group ([\w-]+)", path.read_text()):
        assert re.search(rf"^{group} = \[", project, re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_the_cpu_image_builds() -> None:
    builder = next((name for name in ("docker", "podman", "buildah") if shutil.which(name)), None)
    if builder is None or subprocess.run([builder, "info"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("no image builder is at hand")
    command = [builder, "build", "-f", str(DEPLOY / "Dockerfile"), "-t", "flex-judge:test", str(ROOT)]
    subprocess.run(command, check=True, timeout=1800)
    if builder != "buildah":
        shown = subprocess.run(
            [builder, "run", "--rm", "--entrypoint", "flex-judge", "flex-judge:test", "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", shown.stdout)


def test_compose_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    judge = compose["services"]["judge"]
    assert (DEPLOY / judge["build"]["context"]).resolve() == ROOT
    dockerfile = ROOT / judge["build"]["dockerfile"]
    entry = json.loads(dict(parse_dockerfile(dockerfile))["ENTRYPOINT"])
    config = check_serve_command([*entry[1:], *judge["command"]], monkeypatch, tmp_path)
    assert config.api_key is not None
    minutes = int(judge["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > config.service.drain_s
    for service in compose["services"].values():
        assert not HOST.match(service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", ()):
            assert (DEPLOY / volume.partition(":")[0]).is_file()
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
    scrape = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["metrics_path"] == PROBES[1]
    assert job["static_configs"] == [{"targets": ["judge:8000"]}]
    assert scrape["rule_files"] == ["alerts.yaml"]


def test_systemd_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (DEPLOY / "flex-judge.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    command = shlex.split(settings["ExecStart"].replace("/etc/flex-judge/serve.yaml", str(DEPLOY / "serve.yaml")))
    config = check_serve_command(command[1:], monkeypatch, tmp_path)
    assert int(settings["TimeoutStopSec"]) > config.service.drain_s
    assert settings["KillMode"] == "mixed"  # SIGTERM to all processes would end the replicas before the drain
    assert settings["User"] != "root"
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "flex-judge.service"
        unit.write_text(text.replace(command[0], "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert "flex-judge.service" not in done.stderr


def test_kubernetes_uses_the_cuda_image() -> None:
    images = set(re.findall(r"image: (\S+)", (DOCS / "operations" / "kuberay.yaml").read_text()))
    (tag,) = re.findall(r"-t (\S+) \.", (DEPLOY / "Dockerfile.cuda").read_text())
    assert images == {tag}


def list_expressions() -> Iterator[tuple[str, str]]:
    """List the PromQL expressions of the alert rules, the dashboard and the pages, with their place."""
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$model", ".*")
    page = (DOCS / "hooks" / "intro" / "metrics.md").read_text()
    for expression in re.findall(r"^\| `([^`]*flex_judge[^`]*)` \|", page, re.MULTILINE):
        yield "reference/metrics.md", expression


def list_shown_names() -> dict[str, tuple[str, ...]]:
    """List the names of all series that /metrics has, with their labels."""
    shown: dict[str, tuple[str, ...]] = {"up": ("job", "instance")}
    for name, kind, labels, _ in list_series():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            shown[name + suffix] = (*labels, *(("le",) if suffix == "_bucket" else ()))
    return shown


@pytest.mark.parametrize(("place", "expression"), list(list_expressions()))
def test_expressions_use_series_that_exist(place: str, expression: str) -> None:
    shown = list_shown_names()
    names = set(re.findall(r"\bflex_judge_\w+|\bup\b", expression))
    assert names
    assert names <= set(shown), f"{place}: {names - set(shown)}"
    labels = {label for name in names for label in shown[name]}
    grouped = {word for by in re.findall(r"\bby \(([^)]*)\)", expression) for word in by.split(", ")}
    matched = {label for inner in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)[=!]", inner)}
    assert grouped | matched <= labels, f"{place}: {grouped | matched - labels}"


@pytest.mark.parametrize(("place", "expression"), list(list_expressions()))
def test_expressions_parse(place: str, expression: str) -> None:
    parser = pytest.importorskip("promql_parser")
    parser.parse(expression)


def test_every_series_is_on_the_dashboard() -> None:
    text = json.dumps([panel["targets"] for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]])
    names = {name.removesuffix("_bucket") for name in re.findall(r"flex_judge_\w+", text)}
    assert names == {name for name, *_ in list_series()}


def test_alert_rules_have_a_name_severity_and_advice() -> None:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"FlexJudge[A-Z]\w+", rule["alert"])
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_dashboard_is_complete() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [tuple(panel["gridPos"][k] for k in "xywh") for panel in dashboard["panels"]]
    cells = [(cx, cy) for x, y, w, h in places for cx in range(x, x + w) for cy in range(y, y + h)]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"])
