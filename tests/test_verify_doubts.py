"""What is drawn to be trained again, and what is possible of results but asks for a second look."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from records import put, result, scored, spec

from npasbench.errors import UsageError
from npasbench.leaderboard.lots import Lots, draw, lines_at
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.store import everything
from npasbench.leaderboard.verify_command import verify

SEEDS = range(8)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two cells of eight seeds, published."""
    for label in ("roast", "hashed"):
        for seed in SEEDS:
            of = spec(label, "0.1", seed)
            put(tmp_path / "runs", of, record=result(of))
    publish(tmp_path / "runs", tmp_path / "results")
    return tmp_path / "results"


def lines(results: Path) -> list[str]:
    (file,) = results.glob("*.jsonl")
    return file.read_text(encoding="utf-8").splitlines(keepends=True)


def write(folder: Path, given: list[str]) -> Path:
    folder.mkdir()
    (folder / "digits15-wrn-10-1.jsonl").write_text("".join(given), encoding="utf-8")
    return folder


def drawn(results: Path, wished: int, seed: str, before: Path | None = None, **unable: str) -> Lots:
    known = lines_at(before) if before else frozenset[str]()
    found = [(run, run.record) for run in everything(results, []) if run.record]
    return draw(found, wished, seed, known, lambda run, _: unable.get(run.identity.label, ""))


# The draw


def test_only_lines_that_are_new_or_changed_are_drawn(results: Path, tmp_path: Path) -> None:
    every = lines(results)
    changed = json.loads(every[3])
    changed["record"]["metrics"]["nll"] += 0.001
    old = write(tmp_path / "old", [*every[:3], json.dumps(changed) + "\n", *every[4:10]])
    wanted = {json.loads(line)["record"]["fingerprint"] for line in (every[3], *every[10:])}
    seen = [drawn(results, 2, str(seed), old).drawn for seed in range(60)]
    assert {one for several in seen for one in several} == wanted
    assert drawn(results, 99, "x", old).able == 7
    assert drawn(results, 1, "x", old).known == 9


def test_a_line_that_is_only_written_otherwise_is_not_new(results: Path, tmp_path: Path) -> None:
    old = write(
        tmp_path / "old", [json.dumps(json.loads(line), indent=None, sort_keys=True) + "\n" for line in lines(results)]
    )
    assert drawn(results, 1, "x", old).able == 0
    assert drawn(results, 1, "x", tmp_path / "runs").able == 0


def test_of_an_empty_folder_everything_is_new_and_a_missing_one_is_an_error(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert drawn(results, 1, "x", tmp_path / "empty").able == 16
    with pytest.raises(UsageError, match="There is no folder"):
        drawn(results, 1, "x", tmp_path / "nowhere")


def test_the_seed_decides_and_every_run_is_drawn_as_often(results: Path) -> None:
    assert drawn(results, 3, "a") == drawn(results, 3, "a")
    counts = Counter(drawn(results, 1, f"seed {number}").drawn[0] for number in range(200))
    assert len(counts) == 16
    assert all(2 < number < 30 for number in counts.values())


def test_what_cannot_be_trained_again_is_counted_by_its_reason(results: Path) -> None:
    lots = drawn(results, 9, "x", hashed="the method 'hashed' is not installed")
    assert lots.unable == {"the method 'hashed' is not installed": 8}
    assert (lots.able, len(lots.drawn), lots.short_of) == (8, 8, 1)


def test_without_a_seed_each_draw_is_another_and_is_printed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npasbench.running.repeating.retrain", lambda *_, **__: [])
    monkeypatch.setattr("npasbench.leaderboard.verifying._not_repeatable", lambda _: "it is not tried")
    words = [str(results), "--retrain", "1", "--device", "cpu"]
    said = [
        line for _ in range(2) for line in CliRunner().invoke(verify, words).output.splitlines() if "drawn by" in line
    ]
    assert len({*said}) == 2
    assert all("0 of 0 runs that can be" in line for line in said)
    assert "not drawn: 16 runs: it is not tried" in CliRunner().invoke(verify, words).output


@pytest.mark.parametrize("words", [("--draw-seed", "x"), ("--new-since", ".")])
def test_a_draw_without_retraining_is_wrong_use(results: Path, words: tuple[str, str]) -> None:
    outcome = CliRunner().invoke(verify, [str(results), *words])
    assert isinstance(outcome.exception, UsageError)


# Doubts


def invoke(results: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Verify made-up records: no network is built from them."""
    monkeypatch.setattr("npasbench.leaderboard.verifying._network", lambda *_: [])
    return CliRunner().invoke(verify, [str(results), "--json"])


def doubts(results: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return list(json.loads(invoke(results, monkeypatch).output)["doubts"])


def copied(results: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Make seeds 1 and 2 of roast say of the first of roast's lines what ``change`` takes over."""
    (file,) = results.glob("*.jsonl")
    every = [json.loads(line) for line in lines(results)]
    roast = [one for one in every if one["record"]["label"] == "roast"]
    for one in roast[1:3]:
        change(one, roast[0])
    file.write_text("".join(json.dumps(one) + "\n" for one in every), encoding="utf-8")


def take_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    one["correct"] = other["correct"]
    one["record"]["metrics"]["accuracy"] = other["record"]["metrics"]["accuracy"]


def take_nll(one: dict[str, Any], other: dict[str, Any]) -> None:
    one["record"]["metrics"]["nll"] = other["record"]["metrics"]["nll"]


def shuffled(results: Path) -> None:
    """The made-up bits of one accuracy are always the same; here each run has its own."""
    (file,) = results.glob("*.jsonl")
    every = [json.loads(line) for line in lines(results)]
    for number, one in enumerate(every):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(one["correct"]), np.uint8))[
            : one["record"]["test_examples"]
        ]
        np.random.default_rng(number).shuffle(bits)
        one["correct"] = base64.b64encode(np.packbits(bits).tobytes()).decode()
    file.write_text("".join(json.dumps(one) + "\n" for one in every), encoding="utf-8")


def test_seeds_of_their_own_raise_no_doubt(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled(results)
    assert doubts(results, monkeypatch) == []


@pytest.mark.parametrize(
    ("change", "words"), [(take_bits, "exactly the same test examples"), (take_nll, "to the last digit")]
)
def test_seeds_that_agree_too_well_are_doubtful_and_no_failure(
    results: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], None], words: str
) -> None:
    shuffled(results)
    copied(results, change)
    (sentence,) = doubts(results, monkeypatch)
    assert sentence.startswith("digits15-wrn-10-1 roast 0.1: seeds 0, 1 and 2 ")
    assert words in sentence
    assert '"differs": 0' in invoke(results, monkeypatch).output


def test_predictions_that_are_all_right_may_be_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for accuracy, told in ((1.0, False), (0.9991, False), (0.9, True)):
        folder = tmp_path / str(accuracy)
        scored(folder, "roast", "0.1", dict.fromkeys(range(3), accuracy))
        assert any("test examples" in one for one in doubts(folder, monkeypatch)) == told


def test_a_seed_that_is_not_the_cards_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(tmp_path, "roast", "0.1", {seed: 0.9 + seed % 10 / 100 for seed in (0, 9, 10, 1007)})
    monkeypatch.setattr("npasbench.leaderboard.known_cards.Cards.of", lambda *_: card_of(tmp_path))
    assert "digits15-wrn-10-1 roast 0.1: seeds 10 and 1007 are not of the card's, 0 to 9." in doubts(
        tmp_path, monkeypatch
    )


def card_of(root: Path) -> Any:
    from npasbench.card import Card

    return Card.model_validate(json.loads(next(root.rglob("spec.json")).read_text(encoding="utf-8"))["task"])
