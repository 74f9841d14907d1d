"""Publishing: run directories into files and back, merged, in the same bytes, and refused where results contradict."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from records import HOSTILE, TASK, card, put, realistic, result, scored, spec

from npasbench.card import read_card
from npasbench.errors import RunError, UsageError
from npasbench.leaderboard import published
from npasbench.leaderboard.command import leaderboard
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.publish_command import publish as command
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.site import build_site
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.summary import as_json

FILE = f"{TASK}.jsonl"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def put_changed(folder: Path, number: int, **record: Any) -> None:
    """Write a published file again, with some of one line's record changed."""
    content = lines(folder)
    content[number]["record"] |= record
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in content))


def invoke(*words: str) -> Result:
    return CliRunner().invoke(command, [*words])


def test_what_was_scored_on_training_images_is_not_published(tmp_path: Path) -> None:
    tuned = card(data={**card()["data"], "protocol": "tune"})
    for seed, task in ((0, card()), (1, tuned), (2, tuned)):
        of = spec("ssn", "0.1", seed, task=task)
        put(tmp_path / "runs", of, record=result(of))
    said = invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    assert said.exit_code == 0
    assert "2 results left out: under the protocol tune they are of held-out training images." in said.stderr
    assert [line["record"]["seed"] for line in lines(tmp_path / "results")] == [0]


# There and back


def test_published_results_give_the_board_of_the_run_directories(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=3)
    for failure in (tmp_path / "runs").rglob("failure.json"):
        shutil.rmtree(failure.parent)
    publish(tmp_path / "runs", tmp_path / "results", trial=True)
    ours, theirs = (as_json(build_site(tmp_path / name, tmp_path / f"site-{name}")) for name in ("runs", "results"))
    assert ours["tasks"] == theirs["tasks"]
    assert ours["pages"] == theirs["pages"]
    for name in ("accuracy.csv", "costs.csv"):
        one, two = (next((tmp_path / f"site-{n}" / "tasks").glob(f"*.{name}")) for n in ("runs", "results"))
        assert one.read_bytes() == two.read_bytes()


def test_a_line_holds_the_record_as_it_was_and_the_bits(tmp_path: Path) -> None:
    of = spec("ssn", "0.1", 0)
    folder = put(tmp_path / "runs", of, record=result(of))
    publish(tmp_path / "runs", tmp_path / "results")
    (line,) = lines(tmp_path / "results")
    assert list(line) == ["record", "correct"]
    expected = {
        **json.loads((folder / "result.json").read_text()),
        "reason": "",
        "smallest": None,
        "accounting": "total",
    }
    assert line["record"] == expected
    assert base64.b64decode(line["correct"]) == np.load(folder / "correct.npy").tobytes()


def test_a_run_without_bits_is_published_with_null_and_nan_stays_nan(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0)
    metrics = {"accuracy": float("nan"), "nll": 0.2, "ece": 0.02}
    folder = put(tmp_path / "runs", of, record=result(of, metrics=metrics))
    (folder / "correct.npy").unlink()
    publish(tmp_path / "runs", tmp_path / "results")
    (line,) = lines(tmp_path / "results")
    assert line["correct"] is None
    (run,) = collect(tmp_path / "results").runs
    assert run.accuracy != run.accuracy


def test_every_end_is_published_and_nothing_that_has_not_ended(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"metrics": {}, "parameters": {}, "certificate": None, "reason": "it cannot be"}
    for seed, state in enumerate(("done", "refused", "skipped", "over-budget")):
        of = spec("roast", "0.1", seed)
        ended = nothing if state in ("refused", "skipped") else {}
        put(tmp_path / "runs", of, record=result(of, state=state, **ended))
    put(tmp_path / "runs", spec("roast", "0.1", 8))
    put(tmp_path / "runs", spec("roast", "0.1", 9), failure={"error": "x"})
    publish(tmp_path / "runs", tmp_path / "results")
    assert [line["record"]["state"] for line in lines(tmp_path / "results")] == [
        "done",
        "refused",
        "skipped",
        "over-budget",
    ]


# Order and bytes


def test_the_same_results_give_the_same_bytes_in_whatever_order_they_came(tmp_path: Path) -> None:
    for name, order in (("one", (0, 1, 2)), ("two", (2, 0, 1))):
        for seed in order:
            of = spec("roast", "0.1", seed)
            put(tmp_path / name / "new", of, record=dict(sorted(result(of).items(), reverse=name == "two")))
            publish(tmp_path / name / "new", tmp_path / name / "results")
            shutil.rmtree(tmp_path / name / "new")
    one, two = ((tmp_path / name / "results" / FILE).read_bytes() for name in ("one", "two"))
    assert one == two


def test_lines_stand_by_label_budget_and_seed(tmp_path: Path) -> None:
    for label, budget, seed in (("roast", "1", 0), ("roast", "0.1", 10), ("roast", "0.1", 9), ("naive", "1", 1)):
        scored(tmp_path / "runs", label, budget, {seed: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    found = [(r["label"], r["budget"], r["seed"]) for r in (line["record"] for line in lines(tmp_path / "results"))]
    assert found == [("naive", "1", 1), ("roast", "0.1", 9), ("roast", "0.1", 10), ("roast", "1", 0)]


# Merging


def test_what_is_published_already_stays_as_it_is(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    put_changed(tmp_path / "results", 0, provenance={"device": "another machine", "dirty": False})
    scored(tmp_path / "runs", "naive", "0.1", {0: 0.8})
    done = publish(tmp_path / "runs", tmp_path / "results")
    assert done.files == ((tmp_path / "results" / FILE, 3, 1),)
    assert [line["record"]["provenance"]["device"] for line in lines(tmp_path / "results")].count(
        "another machine"
    ) == 1
    before = (tmp_path / "results" / FILE).read_bytes()
    assert publish(tmp_path / "results", tmp_path / "results").files[0][2] == 0
    assert (tmp_path / "results" / FILE).read_bytes() == before


def test_another_result_of_a_published_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    put_changed(tmp_path / "results", 0, metrics={"accuracy": 0.5, "nll": 0.2, "ece": 0.02})
    before = (tmp_path / "results" / FILE).read_bytes()
    scored(tmp_path / "runs", "aaa", "0.1", {0: 0.9})
    of = spec("roast", "0.1", 0)
    of["task"]["name"] = "another"
    put(tmp_path / "runs", of, record=result(of, fingerprint="a" * 64))
    with pytest.raises(RunError, match="the same run") as refused:
        publish(tmp_path / "runs", tmp_path / "results")
    assert all(word in str(refused.value) for word in (f"{FILE}:1", "runs/", "0.9", "0.5", "Nothing was written"))
    assert (tmp_path / "results" / FILE).read_bytes() == before
    assert [path.name for path in (tmp_path / "results").iterdir()] == [FILE]


def test_nothing_is_merged_with_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    (tmp_path / "results" / FILE).write_text("<<<<<<< ours\n")
    with pytest.raises(RunError, match=rf"{FILE}:1 cannot be read.*Nothing was written"):
        publish(tmp_path / "runs", tmp_path / "results")
    assert (tmp_path / "results" / FILE).read_text() == "<<<<<<< ours\n"


def test_a_task_whose_name_is_no_files_is_refused(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0, task_fingerprint="f" * 64)
    put(tmp_path / "runs", of, record=result(of, task="../../elsewhere"))
    with pytest.raises(RunError, match="cannot be published"):
        publish(tmp_path / "runs", tmp_path / "deep" / "er")
    assert not (tmp_path / "deep").exists()


# The command


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    outcome = invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    assert outcome.exit_code == 0, outcome.output
    assert f"{FILE}: 2 runs, 2 of them new" in outcome.output


def test_trial_results_are_left_out_with_a_sentence_unless_asked_for(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9}, provenance={"dirty": True})
    outcome = invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    assert outcome.exit_code == 1
    assert "1 trial result left out" in outcome.output
    assert "--trial" in outcome.output
    assert not (tmp_path / "results").exists()
    assert invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"), "--trial").exit_code == 0
    assert len(lines(tmp_path / "results")) == 1


def test_a_clean_result_takes_the_place_of_the_same_trial_result(tmp_path: Path) -> None:
    scored(tmp_path / "trial", "roast", "0.1", {0: 0.9}, provenance={"dirty": True})
    scored(tmp_path / "clean", "roast", "0.1", {0: 0.9})
    for runs in ("trial", "clean", "trial"):
        publish(tmp_path / runs, tmp_path / "results", trial=True)
    (line,) = lines(tmp_path / "results")
    assert line["record"]["provenance"]["dirty"] is False


def test_a_corrupt_run_is_named_and_the_others_are_published(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    next((tmp_path / "runs").rglob("seed0-*/result.json")).write_text("{")
    outcome = invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    assert outcome.exit_code == 1
    assert "result.json cannot be read" in outcome.output
    assert len(lines(tmp_path / "results")) == 1


def test_a_record_that_contradicts_itself_is_refused_by_name_and_the_others_are_published(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    np.save(next((tmp_path / "runs").rglob("seed0-*")) / "correct.npy", np.zeros(1250, np.uint8))
    outcome = invoke(str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    assert outcome.exit_code == 1
    assert "1 result left out" in outcome.output
    assert "seed0-" in outcome.output
    assert "0 of 10,000 correctness bits are set: 0.0, not 0.9" in outcome.output
    assert [line["record"]["seed"] for line in lines(tmp_path / "results")] == [1]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"side_information_bits": 65}, "side_information_bits"),
        ({"costs": {"macs": 1.0}}, "macs"),
        ({"running_statistics": 1}, "running_statistics"),
    ],
)
def test_another_count_of_a_published_run_is_refused(tmp_path: Path, change: dict[str, Any], name: str) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    put_changed(tmp_path / "results", 0, **change)
    with pytest.raises(RunError, match=f"the same run.*: {name} differ"):
        publish(tmp_path / "runs", tmp_path / "results")


def test_nowhere_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        publish(tmp_path / "nowhere", tmp_path / "results")


# Published files on the leaderboard


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is not a published result"),
        ('{"record": {}, "correct": null}', "has schema None"),
        ('{"record": {"schema": 1}, "correct": null}', "key 'state'"),
        ("x" * (published.LINE_LIMIT + 10), "is longer than 5,000,000 bytes"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_broken_line_is_named_with_its_number_and_the_others_are_shown(
    tmp_path: Path, broken: str, words: str
) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    first, second = (tmp_path / "results" / FILE).read_text().splitlines()
    text = f"{first}\n{broken}\n\n{second}\n"
    (tmp_path / "results" / FILE).write_bytes(text.encode(errors="surrogateescape"))
    store = collect(tmp_path / "results")
    assert [run.where for run in store.runs] == [f"{FILE}:1", f"{FILE}:4"]
    (problem,) = store.problems
    assert f"{FILE}:2 {words}" in problem or (f"{FILE}:2" in problem and words in problem)
    outcome = CliRunner().invoke(leaderboard, [str(tmp_path / "results"), "--out", str(tmp_path / "site")])
    assert outcome.exit_code == 1
    assert f"{FILE}:2" in (tmp_path / "site/index.html").read_text()


def test_of_many_broken_lines_the_first_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{\n" * 1000)
    problems = collect(tmp_path).problems
    assert len(problems) == 21
    assert problems[-1].endswith("has 980 more lines that cannot be read.")


def test_the_training_curve_in_a_run_directory_is_no_published_file(tmp_path: Path) -> None:
    of = spec("roast", "0.1", 0)
    with pytest.raises(UsageError, match="There are no runs"):
        collect(put(tmp_path, of, record=result(of)))


@pytest.mark.parametrize("correct", ["not Base64!", 7, "AAAA", "é"])
def test_bits_that_cannot_be_are_named(tmp_path: Path, correct: object) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    (line,) = lines(tmp_path / "results")
    (tmp_path / "results" / FILE).write_text(json.dumps({**line, "correct": correct}))
    store = collect(tmp_path / "results")
    assert store.runs == ()
    assert f"{FILE}:1" in store.problems[0]


def test_a_published_copy_of_a_run_beside_it_is_expected_and_another_result_is_not(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "runs")
    store = collect(tmp_path / "runs")
    assert (len(store.runs), store.problems) == (1, ())
    assert store.runs[0].directory is not None
    put_changed(tmp_path / "runs", 0, metrics={"accuracy": 0.5, "nll": 0.2, "ece": 0.02})
    store = collect(tmp_path / "runs")
    assert "hold different results of one run" in store.problems[0]
    assert [(run.state, run.record) for run in store.runs] == [("corrupt", None)]


def test_a_published_runs_page_says_what_it_cannot_show(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    publish(tmp_path / "runs", tmp_path / "results")
    site = build_site(tmp_path / "results", tmp_path / "site").index.parent
    text = next((site / "runs").rglob("*.html")).read_text()
    assert f"Published in {FILE}, without its training curve and its log." in text
    assert "Training loss" not in text


def test_published_results_of_an_installed_task_find_its_card(tmp_path: Path) -> None:
    import npasbench.tasks

    card = read_card(Path(next(iter(npasbench.tasks.__path__))) / f"{TASK}.toml")
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9}, task_fingerprint=card.fingerprint)
    scored(tmp_path / "runs", "naive", "0.1", {0: 0.9}, task_fingerprint="f" * 64)
    publish(tmp_path / "runs", tmp_path / "results")
    titles = {board.fingerprint: board.title for board in boards(collect(tmp_path / "results").runs)}
    assert titles == {card.fingerprint: card.title, "f" * 64: TASK}


def test_hostile_published_results_are_text(tmp_path: Path) -> None:
    of = spec("x", "0.1", 0, label="hostile", method=HOSTILE, knobs={HOSTILE: HOSTILE})
    record = result(of, provenance={HOSTILE: HOSTILE}, costs={HOSTILE: 1.0}, allocation={HOSTILE: HOSTILE})
    (tmp_path / "results").mkdir()
    line = json.dumps({"record": record, "correct": None}) + "\n"
    (tmp_path / "results" / f"{HOSTILE.replace('/', '')}.jsonl").write_text(line)
    site = build_site(tmp_path / "results", tmp_path / "site").index.parent
    assert not any("<img" in page.read_text() for page in site.rglob("*.html"))
