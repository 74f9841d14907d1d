"""Records and files from people who mean harm: a sentence, nothing run, bounded memory and time, and the others shown."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from records import HOSTILE, put, result, spec
from torch import nn

from npasbench.errors import RunError
from npasbench.leaderboard import published, store
from npasbench.leaderboard.command import leaderboard
from npasbench.leaderboard.compare_command import compare
from npasbench.leaderboard.figure_command import figure
from npasbench.leaderboard.published import read_published
from npasbench.leaderboard.site import build_site
from npasbench.leaderboard.store import collect
from npasbench.leaderboard.verify_command import verify
from npasbench.measuring.model_file import read_model
from npasbench.method import Findings, Method
from npasbench.problem import Problem
from npasbench.running import reading
from npasbench.running import record as records
from npasbench.running.findings import read_findings
from npasbench.running.rundir import RunDirectory

RAN = "ran.txt"


def good(**changes: Any) -> dict[str, Any]:
    return {**result(spec("roast", "0.1", 0)), **changes}


def folder_of(root: Path, seed: int = 1) -> Path:
    of = spec("roast", "0.1", seed)
    return put(root, of, record=result(of))


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


# What a record may say


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 10**4000}, "seed"),
        ({"seed": -1}, "seed"),
        ({"parameters": {"total": -1}}, "parameters.total"),
        ({"parameters": {"total": 10**30}}, "parameters.total"),
        ({"test_examples": -5}, "test_examples"),
        ({"metrics": {"accuracy": float("inf")}}, "metrics"),
        ({"metrics": {"nll": 1e300}}, "metrics"),
        ({"costs": {"macs": float("-inf")}}, "costs"),
        ({"knobs": {"a": 10**400}}, "knobs"),
        ({"knobs": {"a": deep(40)}}, "nested more than 32 levels"),
        ({"allocation": {"groups": deep(500)}}, "nested more than 32 levels"),
        ({"provenance": {"command": "x" * 300_000}}, "300,000 characters"),
        ({"label": "x" * 6000}, "label"),
        ({"fingerprint": "../" * 20}, "fingerprint"),
        ({"task_fingerprint": "A" * 64}, "task_fingerprint"),
        ({"fingerprint": "a" * 64 + "\n"}, "fingerprint"),
        ({"task": "\ud800"}, "task"),
        ({"metrics": {f"m{k}": 0.1 for k in range(2000)}}, "metrics"),
        ({"x" * 100_000 + "\x1b[31m\n": 1}, "Extra inputs"),
        ({"schema": "x" * 100_000}, "has schema"),
    ],
)
def test_what_no_result_holds_is_named_in_a_short_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError) as error:
        records.parse(good(**changes), "somewhere")
    assert words in str(error.value)
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": ' + "1" * 2_000_000 + "}", "more than 4,300 digits"),
        ('{"schema": 1, "schema": 1}', "the key 'schema' stands twice"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 1_000_000, "nested too deeply"),
        ('{"schema": "\\ud800"}', "not text in UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not text in UTF-8"),
        (b'{"schema": 1, "task": "\xc3"}', "not text in UTF-8"),
        ("1" + "0" * 4_999_998, "more than 4,300 digits"),
        (" " * 5_000_001, "has 5,000,001 bytes; more than 5,000,000 are not read"),
        ("", "Expecting value"),
    ],
    ids=range(10),
)
def test_a_result_that_is_no_json_of_ours_is_refused_quickly(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.monotonic()
    with pytest.raises(RunError) as error:
        records.read(path)
    assert words in str(error.value)
    assert time.monotonic() - begun < 10


def test_nan_is_read_and_a_float_of_a_million_digits_is_a_float(tmp_path: Path) -> None:
    text = json.dumps(good(metrics={"accuracy": float("nan")}))
    path = tmp_path / "result.json"
    path.write_text(text.replace('"nll"', '"nll"').replace("NaN", "0." + "1" * 1_000_000), encoding="utf-8")
    assert records.read(path).metrics["accuracy"] == pytest.approx(1 / 9)
    path.write_text(text, encoding="utf-8")
    assert records.read(path).metrics["accuracy"] != records.read(path).metrics["accuracy"]


# What a file may be


def named_once(root: Path, words: str, states: list[str]) -> None:
    """Whatever is wrong is one problem, the others are shown, and the site is built."""
    begun = time.monotonic()
    found = collect(root)
    (problem,) = found.problems
    assert words in problem
    assert [run.state for run in found.runs] == states
    site = build_site(root, root.parent / "site")
    assert (problem,) == site.problems
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "name", ["result.json", "spec.json", "metrics.jsonl", "correct.npy", "failure.json", "log.txt"]
)
def test_a_pipe_in_place_of_a_file_is_not_opened(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "runs")
    bad = folder_of(tmp_path / "runs", seed=2)
    (bad / name).unlink(missing_ok=True)
    os.mkfifo(bad / name)
    named_once(tmp_path / "runs", "is not a plain file", ["done"])


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "spec.json", "correct.npy"])
def test_a_file_of_two_gigabytes_is_not_read(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "runs")
    bad = folder_of(tmp_path / "runs", seed=2)
    with (bad / name).open("wb") as file:
        file.truncate(2_000_000_000)
    named_once(tmp_path / "runs", "has 2,000,000,000 bytes; more than", ["done"])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    secret = folder_of(tmp_path / "private", seed=7)
    folder_of(tmp_path / "runs")
    bad = folder_of(tmp_path / "runs", seed=2)
    (bad / "correct.npy").unlink()
    (bad / "correct.npy").symlink_to(secret / "correct.npy")
    named_once(tmp_path / "runs", "is a link that leads out of", ["done"])


@pytest.mark.parametrize("level", range(4))
def test_a_folder_that_is_a_link_out_is_left_out_at_any_level(tmp_path: Path, level: int) -> None:
    folder_of(tmp_path / "runs")
    private = folder_of(tmp_path / "private", seed=7)
    target = [private, *private.parents][level]
    link = tmp_path / "runs" / Path(*private.relative_to(tmp_path / "private").parts[:3]) / "seed7-link"
    link = [link, *link.parents][level]
    link = link.with_name(link.name + "-link")
    link.symlink_to(target)
    found = collect(tmp_path / "runs")
    assert [run.identity.seed for run in found.runs] == [1]
    assert "leads out of" in found.problems[0]


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "result.json").rename(tmp_path / "kept.json")
    (folder / "result.json").symlink_to(tmp_path / "kept.json")
    assert [run.state for run in collect(tmp_path).runs] == ["done"]


def test_published_files_are_plain_bounded_and_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.jsonl").write_text("{}\n")
    (tmp_path / "in" / "link.jsonl").symlink_to(tmp_path / "out.jsonl")
    os.mkfifo(tmp_path / "in" / "pipe.jsonl")
    with (tmp_path / "in" / "large.jsonl").open("wb") as file:
        file.truncate(published.FILE_LIMIT + 1)
    large, link, pipe = collect(tmp_path / "in").problems
    assert "has 1,000,000,001 bytes" in large
    assert "leads out of" in link
    assert "is not a plain file" in pipe


def test_a_line_of_a_published_file_is_held_to_the_same(tmp_path: Path) -> None:
    of = result(spec("roast", "0.1", 0))
    lines = [
        json.dumps({"record": {**of, "label": "x", "seed": -1}, "correct": None}),
        '{"record": {}, "record": {}, "correct": null}',
        json.dumps({"record": {**of, "knobs": {"a": deep(200)}}, "correct": None}),
        json.dumps({"record": of, "correct": "A" * 1_000_000}),
        json.dumps({"record": of, "correct": None}),
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    problems: list[str] = []
    assert [number for number, _ in read_published(tmp_path / "x.jsonl", problems)] == [5]
    assert [
        word in problem for word, problem in zip(("seed", "twice", "nested", "bytes of correct"), problems, strict=True)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        "[1]\n",
        '"x"\n',
        "[" * 100_000,
        '{"epoch": ' + "9" * 5000 + "}\n",
        '{"a": ' + "[" * 90 + "]" * 90 + "}\n",
        "\xff",
    ],
)
def test_a_training_curve_that_is_none_ends_where_it_goes_wrong(tmp_path: Path, rows: str) -> None:
    folder = folder_of(tmp_path)
    row = {"epoch": 1, "step": 3, "loss": 2.0, "lr": 0.1, "seconds": 0.1}
    (folder / "metrics.jsonl").write_bytes(json.dumps(row).encode() + b"\n" + rows.encode("latin-1"))
    assert RunDirectory(folder).epochs() == [row]


def test_names_with_paths_scripts_and_controls_stay_names(tmp_path: Path) -> None:
    names = (
        HOSTILE,
        "../../../etc/passwd",
        "/etc/passwd",
        "a\x00b",
        "\x1b[2Jx",
        "..",
        ".",
        "con",
        "\u202egnp.exe",
        "%2e%2e/",
    )
    for seed, name in enumerate(names):
        of = spec("x", "0.1", seed, label=name, method=name, budget=name, knobs={name: name})
        provenance = {"method_cite": f"url = {{javascript:alert(3)}} {name}", "method_summary": name, "command": name}
        record = result(of, task=name, provenance=provenance)
        folder = put(
            tmp_path / "runs", {**of, "task": {"name": f"t{seed}"}, "label": "l", "budget": "b"}, record=record
        )
        (folder / "spec.json").write_text(json.dumps(of))
    outside = {path for path in tmp_path.rglob("*") if path.is_file()}
    site = build_site(tmp_path / "runs", tmp_path / "deep" / "site").index.parent
    assert {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(site)} == outside
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert "<script>alert" not in text
        assert 'href="javascript:' not in text


def test_what_is_of_any_length_is_cut_where_it_is_shown(tmp_path: Path) -> None:
    long = "x" * 5_000 + "\u202e\x1b[2J"
    for seed in range(2):
        of = spec("roast", "0.1", seed, knobs={long: long, "n": seed}, task_fingerprint="f" * 64)
        provenance = dict.fromkeys(("method_origin", "device", long), 9 * long)
        put(tmp_path / "runs", of, record=result(of, provenance=provenance))
    outcome = CliRunner().invoke(leaderboard, [str(tmp_path / "runs"), "--out", str(tmp_path / "site")])
    assert outcome.exit_code == 0, outcome.output
    assert "definition 1: n 0" in outcome.output
    assert "x" * 301 not in outcome.output
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        told, _, raw = text.partition("<details><summary>Full spec")
        assert "\u202e" not in text
        assert "\x1b" not in text
        assert "x" * 301 not in told
        assert not raw or page.parent.parent.name == "runs"


def test_sort_keys_of_a_site_hold_no_control_characters(tmp_path: Path) -> None:
    bad = "m\u202e\x07\x1b[2J\u2028"
    of = spec("roast", "0.1", 0, method=bad)
    put(tmp_path / "runs", of, record=result(of, provenance={"device": bad, "method_summary": bad}))
    build_site(tmp_path / "runs", tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        for key in re.findall(r'data-[a-z0-9-]+="([^"]*)"', page.read_text(encoding="utf-8")):
            assert key.isprintable()


# Bits


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True), "type object"),
        (lambda p: p.write_bytes(pickle.dumps(np.zeros(3))), "cannot be read"),
        (lambda p: np.save(p, np.zeros(206)), "float64"),
        (lambda p: np.save(p, np.zeros((2, 103), np.uint8)), "shape (2, 103)"),
        (lambda p: p.write_bytes(_npy("(10000000000000,)") + b"\0" * 10), "and has 10 bytes"),
        (lambda p: p.write_bytes(_npy("(-1,)")), "cannot be read|and has 0 bytes"),
        (lambda p: p.write_bytes(_npy("__import__('os').system('touch " + RAN + "')")), "cannot be read"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00"), "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
    ],
    ids=range(9),
)
def test_bits_that_are_none_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "correct.npy")
    with pytest.raises(RunError, match=words.replace("(", r"\(").replace(")", r"\)")):
        reading.read_bits(tmp_path / "correct.npy")
    assert not (tmp_path / RAN).exists()


def _npy(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


# Weights


class Plain(Method):
    """One layer."""

    def build(self, problem: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        return nn.Linear(4, 3)


def _header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _bomb() -> bytes:
    """A gigabyte in a megabyte."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("data", "w") as part,
    ):
        for _ in range(100):
            part.write(bytes(10_000_000))
    return file.getvalue()


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path(RAN).touch, ()


@pytest.mark.parametrize(
    "content",
    [
        _bomb(),
        pickle.dumps(_Runs()),
        _header({}, length=2**63),
        _header({}, length=10**9),
        _header({"parameter.weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        _header({"parameter.other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        _header({"parameter.weight": {"dtype": "F32", "shape": [5, 4], "data_offsets": [0, 80]}}, bytes(80)),
        _header({"structure.x": {"dtype": "U8", "shape": [3 * 10**9], "data_offsets": [0, 3 * 10**9]}}),
        _header({"parameter.weight": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, bytes(16)),
        _header({"parameter.weight": {"dtype": "F32"}}),
        _header({"parameter.weight": []}),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        b"",
    ],
    ids=range(13),
)
def test_a_weight_file_that_lies_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="does not fit its run"):
        read_model(tmp_path / "model.safetensors", Plain(), nn.Linear(4, 3))
    assert not (tmp_path / RAN).exists()


def test_findings_run_nothing_and_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "findings.pt"
    assert read_findings(path) == Findings()
    torch.save({"facts": {"a": 1}, "tensors": {"t": torch.ones(3)}}, path)
    assert read_findings(path).facts == {"a": 1}
    torch.save(_Runs(), path)
    with pytest.raises(RunError, match="cannot be read"):
        read_findings(path)
    path.write_bytes(pickle.dumps(_Runs()))
    with pytest.raises(RunError, match="cannot be read"):
        read_findings(path)
    path.write_bytes(_bomb())
    with pytest.raises(RunError, match="is packed"):
        read_findings(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="is not a plain file"):
        read_findings(path)
    assert not (tmp_path / RAN).exists()


def test_the_store_knows_every_file_that_is_read() -> None:
    directory = RunDirectory(Path())
    read = (directory.result_file, directory.spec_file, directory.failure_file, directory.metrics_file)
    assert {path.name for path in read} | {"correct.npy"} <= set(reading.LIMITS)
    assert store.fault_in is reading.fault_in


def test_names_of_any_length_are_shortened_in_what_commands_print(tmp_path: Path) -> None:
    knobs = {"k" * 5_000: "v" * 5_000}
    for seed in range(2):
        of = spec("roast", "0.1", seed, knobs=knobs)
        put(tmp_path / "runs", of, record=result(of, metrics={"accuracy": 0.9, "nll": 0.2, "n" * 190: -1.0}))
    other = spec("roast", "0.1", 0)
    put(tmp_path / "runs", other, record=result(other))
    runs, svg = str(tmp_path / "runs"), str(tmp_path / "x.svg")
    for command, words in (
        (verify, [runs, "--device", "cpu"]),
        (compare, [runs, runs]),
        (figure, [runs, "--task", other["task"]["name"], "--out", svg]),
        (leaderboard, [runs, "--out", str(tmp_path / "site")]),
    ):
        lines = CliRunner().invoke(command, words).output.splitlines()
        assert lines, words
        assert max(map(len, lines)) < 1_200, words
