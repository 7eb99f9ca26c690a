"""Assignment of a prompt's candidates to replicas."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flex_judge.reward.serving.affinity import Affinity


def place_prompts(affinity: Affinity, prompts: list[str], replicas: str) -> dict[str, Counter[str]]:
    """Send prompts one by one without finishing any; returns the replicas of each prompt."""
    loads = dict.fromkeys(replicas, 0)
    went: dict[str, Counter[str]] = {}
    for prompt in prompts:
        first = affinity.rank_replicas(prompt, loads)[0]
        loads[first] += 1
        went.setdefault(prompt, Counter())[first] += 1
    return went


def test_candidates_of_a_prompt_go_to_one_replica() -> None:
    went = place_prompts(Affinity(), ["p"] * 8 + ["q"] * 8 + ["p"] * 8, "ab")
    assert [len(replicas) for replicas in went.values()] == [1, 1]


def test_new_prompts_go_to_the_least_loaded_replica() -> None:
    went = place_prompts(Affinity(), [f"p{i // 8}" for i in range(64)], "abcd")
    assert sorted(sum(went.values(), Counter()).values()) == [16, 16, 16, 16]
    assert all(len(replicas) == 1 for replicas in went.values())


def test_a_large_prompt_spreads_and_keeps_its_replicas() -> None:
    affinity = Affinity(slack=8)
    went = place_prompts(affinity, ["p"] * 100, "abcd")["p"]
    assert set(went) == set("abcd")
    assert max(went.values()) <= 1.25 * 101 / 4 + 1
    assert affinity.rank_replicas("p", dict.fromkeys("abcd", 0))[0] == next(iter(went))


def test_forgets_removed_replicas() -> None:
    affinity = Affinity()
    (home,) = place_prompts(affinity, ["p"], "ab")["p"]
    other = "b" if home == "a" else "a"
    assert affinity.rank_replicas("p", {other: 5, "c": 0})[0] == "c"
    assert affinity.rank_replicas("p", {home: 0, "c": 1, other: 5})[0] == "c"  # its former assignment was forgotten


def test_ranks_by_load_without_a_prompt() -> None:
    assert Affinity().rank_replicas(None, {"a": 2, "b": 1, "c": 3}) == ["b", "a", "c"]
    assert Affinity().rank_replicas("p", {}) == []


def test_independent_routers_agree_on_idle_replicas() -> None:
    prompts = [f"p{i}" for i in range(50)]
    firsts = [[Affinity().rank_replicas(p, dict.fromkeys("abc", 0))[0] for p in prompts] for _ in range(2)]
    assert firsts[0] == firsts[1]
    assert set(firsts[0]) == set("abc")


def test_limits_the_remembered_prompts() -> None:
    affinity = Affinity(max_prompts=2)
    loads = {"a": 0, "b": 1}
    for prompt in ("p", "q", "r"):
        affinity.rank_replicas(prompt, loads)
    assert affinity.rank_replicas("p", {"a": 1, "b": 0})[0] == "b"  # it was forgotten, otherwise a would be first
    assert affinity.rank_replicas("r", {"a": 1, "b": 0})[0] == "a"


@given(st.lists(st.sampled_from("pqrstuv"), min_size=1, max_size=300), st.integers(1, 5), st.integers(1, 20))
def test_no_replica_exceeds_the_load_bound(prompts: list[str], replicas: int, slack: int) -> None:
    affinity = Affinity(slack=slack)
    loads = dict.fromkeys(map(str, range(replicas)), 0)
    for prompt in prompts:
        ranking = affinity.rank_replicas(prompt, loads)
        assert sorted(ranking) == sorted(loads)
        loads[ranking[0]] += 1
        assert loads[ranking[0]] <= max(slack, 1.25 * sum(loads.values()) / replicas + 1)
