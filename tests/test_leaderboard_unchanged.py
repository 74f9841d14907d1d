"""Rendering again: pages of runs that have not changed stay, and the site is the same as one made from nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import realistic
from test_leaderboard_site import files

from npasbench.leaderboard import site as sites
from npasbench.leaderboard.publishing import publish
from npasbench.leaderboard.site import build_site


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose pages were rendered."""
    seen: list[str] = []
    real = sites.run_page

    def noting(board: Any, entry: Any, cell: Any, run: Any, names: Any) -> Any:
        seen.append(run.where)
        return real(board, entry, cell, run, names)

    monkeypatch.setattr(sites, "run_page", noting)
    return seen


def done(runs: Path) -> Path:
    return next(
        path for path in sorted(runs.glob("*/*/*/*/result.json")) if json.loads(path.read_text())["state"] == "done"
    )


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def test_nothing_is_rendered_again_where_nothing_changed(tmp_path: Path, rendered: list[str]) -> None:
    realistic(tmp_path / "runs", seeds=3)
    build_site(tmp_path / "runs", tmp_path / "site")
    before = files(tmp_path / "site")
    assert len(rendered) > 50
    rendered.clear()
    build_site(tmp_path / "runs", tmp_path / "site")
    assert rendered == []
    assert files(tmp_path / "site") == before


@pytest.mark.parametrize("file", ["result.json", "spec.json", "metrics.jsonl"])
def test_a_run_that_changed_is_rendered_again(file: str, tmp_path: Path, rendered: list[str]) -> None:
    runs = tmp_path / "runs"
    realistic(runs, seeds=3)
    build_site(runs, tmp_path / "site")
    rendered.clear()
    folder = done(runs).parent
    if file == "metrics.jsonl":
        (folder / file).write_text('{"epoch": 1, "step": 4, "loss": 2.5, "lr": 0.1}\n')
    elif file == "spec.json":
        content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps({**content, "plugins": ["elsewhere"]}))
    else:
        change(folder / file, lambda content: content["metrics"].update(accuracy=0.5))
    build_site(runs, tmp_path / "site")
    assert folder.relative_to(runs).as_posix() in rendered
    assert len(rendered) <= 3, "the run, and for another accuracy its siblings"
    build_site(runs, tmp_path / "anew")
    assert files(tmp_path / "site") == files(tmp_path / "anew")


def test_a_page_that_was_removed_is_rendered_again(tmp_path: Path, rendered: list[str]) -> None:
    realistic(tmp_path / "runs", seeds=3)
    build_site(tmp_path / "runs", tmp_path / "site")
    rendered.clear()
    page = sorted((tmp_path / "site" / "runs").rglob("*.html"))[0]
    page.unlink()
    build_site(tmp_path / "runs", tmp_path / "site")
    assert len(rendered) == 1
    assert page.exists()


def test_other_code_renders_all_again(tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    realistic(tmp_path / "runs", seeds=3)
    build_site(tmp_path / "runs", tmp_path / "site")
    every = len(rendered)
    rendered.clear()
    monkeypatch.setattr("npasbench.leaderboard.unchanged._code", lambda: "other")
    build_site(tmp_path / "runs", tmp_path / "site")
    assert len(rendered) == every


def test_one_more_published_run_renders_its_cell_alone(tmp_path: Path, rendered: list[str]) -> None:
    realistic(tmp_path / "runs", seeds=3)
    publish(tmp_path / "runs", tmp_path / "results")
    (file,) = (tmp_path / "results").glob("*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    build_site(tmp_path / "results", tmp_path / "site")
    rendered.clear()
    file.write_text("".join(lines))
    build_site(tmp_path / "results", tmp_path / "site")
    assert 1 <= len(rendered) <= 3
    build_site(tmp_path / "results", tmp_path / "anew")
    assert files(tmp_path / "site") == files(tmp_path / "anew")


def test_a_site_of_an_earlier_version_is_taken_over(tmp_path: Path, rendered: list[str]) -> None:
    realistic(tmp_path / "runs", seeds=3)
    build_site(tmp_path / "runs", tmp_path / "site")
    before = files(tmp_path / "site")
    change(tmp_path / "site" / "site.json", lambda content: content.update(files=sorted(content["files"])))
    rendered.clear()
    build_site(tmp_path / "runs", tmp_path / "site")
    assert rendered
    assert files(tmp_path / "site") == before
