"""The site as files: hostile names, the same bytes each time, nothing stale, and what the command says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from records import hostile, realistic, scored

from npasbench.errors import UsageError
from npasbench.leaderboard.command import leaderboard
from npasbench.leaderboard.site import build_site


class Page(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def files(site: Path) -> dict[str, bytes]:
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in sorted(site.rglob("*")) if path.is_file()}


def test_hostile_names_are_text_and_leave_no_folder(tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    build_site(tmp_path / "runs", tmp_path / "site")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "site"}
    for path in (tmp_path / "site").rglob("*.html"):
        for tag, attributes in Page(path).elements:
            assert tag != "img"
            assert not any(name.startswith("on") for name in attributes)
            assert "javascript:" not in (attributes.get("href") or "")
            if tag == "script":
                assert attributes.get("type") == "application/json" or "/" in (attributes.get("src") or "")


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=3)
    build_site(tmp_path / "runs", tmp_path / "one")
    build_site(tmp_path / "runs", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_every_page_has_the_policy_no_inline_script_and_links_that_resolve(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=3)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    anchors = {path: {a["id"] for _, a in Page(path).elements if a.get("id")} for path in site.rglob("*.html")}
    for path in anchors:
        elements = Page(path).elements
        (policy,) = [
            a["content"] for tag, a in elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert "default-src 'none'; script-src 'self'" in (policy or "")
        for _, attributes in elements:
            for link in (attributes.get("href"), attributes.get("src")):
                if link and not link.startswith(("http", "data:")):
                    target, _, anchor = link.partition("#")
                    resolved = (path.parent / target).resolve() if target else path
                    assert resolved.is_file(), (path, link)
                    assert not anchor or anchor == "content" or anchor in anchors[resolved], (path, link)
    assert not re.search(rb"https?://(?!example\.org|www\.w3\.org|doi\.org)", site.joinpath("index.html").read_bytes())


def test_stale_pages_go_and_strange_folders_are_left_alone(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    scored(tmp_path / "runs", "naive", "0.1", {0: 0.9})
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    assert (site / "methods/naive.html").exists()
    for path in sorted((tmp_path / "runs").rglob("naive/**/*.json")):
        path.unlink()
    (site / "mine.txt").write_text("keep")
    build_site(tmp_path / "runs", site)
    assert not (site / "methods/naive.html").exists()
    assert (site / "mine.txt").read_text() == "keep"
    with pytest.raises(UsageError, match="not a site of npasbench"):
        build_site(tmp_path / "runs", tmp_path / "runs")


def test_two_fingerprints_have_two_pages_that_name_each_other(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9})
    scored(tmp_path / "runs", "naive", "0.1", {0: 0.8}, task_fingerprint="f" * 64)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    pages = sorted((site / "tasks").glob("*.html"))
    assert len(pages) == 2
    assert all(other.name in page.read_text() for page, other in zip(pages, pages[::-1], strict=True))
    assert all(("naive" in page.read_text()) != ("roast" in page.read_text()) for page in pages)


def test_the_command_prints_a_table_and_the_first_page(tmp_path: Path) -> None:
    realistic(tmp_path / "runs", seeds=3)
    outcome = CliRunner().invoke(leaderboard, [str(tmp_path / "runs"), "--out", str(tmp_path / "site")])
    assert outcome.exit_code == 0, outcome.output
    assert re.search(r"naive +\d\d\.\d\d ± \d+\.\d\d", outcome.output)
    assert "needs 5,120" in outcome.output
    assert outcome.output.splitlines()[-1] == str(tmp_path / "site/index.html")


def test_the_command_ends_with_one_and_names_what_is_corrupt_and_shows_the_rest(tmp_path: Path) -> None:
    scored(tmp_path / "runs", "roast", "0.1", {0: 0.9, 1: 0.9})
    bad = next((tmp_path / "runs").rglob("seed0-*/result.json"))
    bad.write_text("{")
    outcome = CliRunner().invoke(leaderboard, [str(tmp_path / "runs"), "--out", str(tmp_path / "site"), "--json"])
    assert outcome.exit_code == 1
    told = json.loads(outcome.output)
    assert str(bad) in told["problems"][0]
    assert told["tasks"][0]["cells"][0]["seeds"] == 1
    assert ">1 of 10 seeds unreadable</span>" in next((tmp_path / "site/tasks").glob("*.html")).read_text()
    assert str(bad) in (tmp_path / "site/index.html").read_text()


def test_the_command_without_runs_says_what_to_do(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(leaderboard, [str(tmp_path / "runs")])
    assert isinstance(outcome.exception, UsageError)
    assert outcome.exception.exit_code == 2
    assert "quickstart" in str(outcome.exception)
