"""The site in a real browser, from disk: no error, no request off the page, and it works on a phone."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, unquote

import pytest
from ensemble_records import ensembles
from records import HOSTILE, LABELS, hostile, realistic

from npasbench.leaderboard.site import build_site

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium was found: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    realistic(root / "runs", seeds=4)
    return build_site(root / "runs", root / "site").index.parent


class Visit:
    """A page that remembers what went wrong on it."""

    def __init__(
        self, browser: sync_api.Browser, path: Path, width: int = 1280, scheme: str = "light", fragment: str = ""
    ) -> None:
        self.wrong: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.on(
            "console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.goto(path.as_uri() + fragment, wait_until="load")

    def _check(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"request {url}")


def some_pages(site: Path) -> list[Path]:
    folders = ("tasks", "compare", "methods", "runs/*")
    top = ("index.html", "reported.html", "about.html")
    return [*(site / name for name in top), *(sorted(site.glob(f"{folder}/*.html"))[0] for folder in folders)]


def task_of(site: Path) -> Path:
    (page,) = (site / "tasks").glob("*.html")
    return page


def compare_of(site: Path) -> Path:
    (page,) = (site / "compare").glob("*.html")
    return page


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_open_without_error_or_request_and_fit_the_window(
    browser: sync_api.Browser, site: Path, width: int
) -> None:
    for path in some_pages(site):
        visit = Visit(browser, path, width)
        visit.page.mouse.wheel(0, 1500)
        visit.page.wait_for_timeout(300)
        assert visit.wrong == [], path
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_charts_are_drawn_with_the_themes_colours(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, site / "index.html")
    visit.page.wait_for_selector(".chart .plot .scatterlayer .trace")
    line = "document.querySelector('.plot .legend .js-line').style.stroke"
    before = visit.page.evaluate(line)
    visit.page.click("#theme")
    visit.page.wait_for_timeout(500)
    assert visit.page.evaluate(line) != before
    assert visit.wrong == []


def test_a_click_on_a_budget_sorts_by_it_and_missing_numbers_stay_last(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, next((site / "tasks").glob("*.html")))
    keys = "[...document.querySelectorAll('table.standings tbody tr')].map(row => row.cells[2].dataset.order)"
    head = visit.page.locator("table.standings thead th").nth(2)
    for sign, way in ((-1, "descending"), (1, "ascending")):
        head.click()
        sync_api.expect(head).to_have_attribute("aria-sort", way)
        read = visit.page.evaluate(keys)
        numbers = [float(key) for key in read if key]
        assert len(numbers) > 3
        assert numbers == sorted(numbers, key=lambda value, sign=sign: sign * value)
        assert all(key == "" for key in read[len(numbers) :])
    assert visit.wrong == []


def bar(visit: Visit, table: str = "costs") -> sync_api.Locator:
    """The tool bar above a table."""
    return visit.page.locator(f'.table[data-searchable="{table}"] .tools')


def tick(visit: Visit, menu: str, *labels: str, table: str = "costs") -> None:
    """Open a menu of the tool bar by its summary's first word and change these boxes."""
    opened = bar(visit, table).locator("details.menu").filter(has=visit.page.locator("summary", has_text=menu)).first
    opened.locator("summary").click()
    for label in labels:
        opened.get_by_label(label, exact=True).click()
    visit.page.keyboard.press("Escape")


def sort(visit: Visit, key: str) -> None:
    """Click a column's head, as the library sorts a moment later."""
    head = visit.page.locator(f'table.costs th[data-key="{key}"]')
    head.click()
    sync_api.expect(head).to_have_attribute("aria-sort", "descending")


def heads(visit: Visit, table: str = "costs") -> list[str]:
    return visit.page.locator(f"table.{table} thead th").evaluate_all("heads => heads.map(head => head.dataset.key)")


def shown(visit: Visit, table: str = "costs") -> list[list[str]]:
    """The table's rows as they are seen."""
    read = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    return visit.page.locator(f"table.{table} tbody tr").evaluate_all(read)


def saved(visit: Visit, name: str, table: str = "costs") -> tuple[str, str]:
    """What a format's Save button gives: the file's name and its text."""
    tick(visit, "Save what is shown", table=table)
    opened = bar(visit, table).locator("details.menu").last
    opened.locator("summary").click()
    with visit.page.expect_download() as waiting:
        opened.get_by_role("button", name=f"Save as {name}").click()
    return waiting.value.suggested_filename, waiting.value.path().read_text()


def test_rows_are_found_by_their_words(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    every = len(shown(visit))
    bar(visit).locator("input.finder").fill("roast")
    assert 0 < len(shown(visit)) < every
    assert all("roast" in row[0] for row in shown(visit))
    assert bar(visit).get_by_role("status").inner_text() == f"{len(shown(visit))} of {every} rows"


def test_rows_are_filtered_by_method_budget_and_state(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    tick(visit, "Budget", "0.1×", "1×")
    assert {row[1] for row in shown(visit)} == {"0.1×", "1×"}
    tick(visit, "State", "refused")
    assert shown(visit)
    assert {row[2].split()[0] for row in shown(visit)} == {"refused"}
    tick(visit, "Method", "dense")
    assert [row[:2] for row in shown(visit)] == [["dense", "0.1×"]]
    assert visit.wrong == []


def test_columns_can_be_picked(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    usual = heads(visit)
    assert {"accuracy", "n", "ties", "difference", "nll", "ece", "verified"} <= {*usual}
    assert "device" not in usual
    tick(visit, "Columns", "Device", "ECE, %")
    assert heads(visit) == [*(key for key in usual if key != "ece"), "device"]
    assert len({len(row) for row in shown(visit)}) == 1
    assert visit.wrong == []


def test_the_address_shows_the_same_view_again(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    tick(visit, "Budget", "0.1×", "0.25×")
    tick(visit, "Columns", "Device", "NLL, nats")
    bar(visit).locator("input.finder").fill("a")
    sort(visit, "accuracy")
    visit.page.get_by_role("button", name="MACs", exact=True).click()
    path, _, fragment = visit.page.url.partition("#")
    told = parse_qs(fragment.partition("?")[2])
    assert told["costs.budget"] == ["0.1×", "0.25×"]
    assert told["costs.find"] == ["a"]
    assert told["costs.sort"] == ["accuracy.desc"]
    assert told["pareto.panel"] == ["MACs"]
    assert unquote(path).endswith(task_of(site).name)

    again = Visit(browser, task_of(site), fragment=f"#{fragment}")
    assert shown(again) == shown(visit)
    assert heads(again) == heads(visit)
    accuracies = [float(row[3].split()[0]) for row in shown(again) if row[3]]
    assert accuracies == sorted(accuracies, reverse=True)
    sync_api.expect(again.page.get_by_role("button", name="MACs", exact=True)).to_have_attribute("aria-pressed", "true")
    assert bar(again).locator("input.finder").input_value() == "a"
    assert again.wrong == visit.wrong == []


def test_an_address_that_names_nothing_known_shows_the_page_as_usual(browser: sync_api.Browser, site: Path) -> None:
    usual = Visit(browser, task_of(site))
    odd = (
        "#costs?costs.columns=x&costs.sort=x.asc&costs.sort=accuracy.up&costs.budget=%E0%A4&pareto.panel=x&pair.first=x"
    )
    visit = Visit(browser, task_of(site), fragment=odd)
    assert heads(visit) == heads(usual)
    assert visit.wrong == []


def test_a_link_within_the_page_keeps_the_view(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site), fragment="#costs?costs.find=roast")
    before = shown(visit)
    visit.page.get_by_role("link", name="Pareto front").click()
    assert shown(visit) == before
    assert visit.page.url.endswith("#pareto?costs.find=roast")


def test_what_is_shown_is_saved_as_csv_and_json_in_full_precision(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    tick(visit, "Budget", "0.25×")
    sort(visit, "accuracy")
    name, text = saved(visit, "CSV")
    assert name == f"{task_of(site).stem}.costs.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["entry"] for row in rows] == [row[0].split()[0] for row in shown(visit)]
    costs = list(csv.DictReader((site / f"tasks/{task_of(site).stem}.costs.csv").open()))
    full = {row["label"]: row for row in costs if row["budget"] == "0.25"}
    for row in rows:
        given = full[row["entry"]]
        for key in ("accuracy", "accuracy_half", "nll", "nll_half", "macs_millions", "difference"):
            wanted = given.get({"macs_millions": "macs", "difference": "difference_to_narrow"}.get(key, key)) or ""
            assert row[key] == wanted == "" or float(row[key]) == float(wanted), (row["entry"], key)
    assert "device" not in rows[0]

    name, text = saved(visit, "JSON")
    objects = json.loads(text)
    assert name.endswith(".costs.json")
    assert [one["entry"] for one in objects] == [row["entry"] for row in rows]
    assert all(
        one["accuracy"] is None or one["accuracy"] == float(row["accuracy"])
        for one, row in zip(objects, rows, strict=True)
    )
    assert visit.wrong == []


def test_what_is_shown_is_saved_as_a_latex_table(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    tick(visit, "Budget", "0.25×")
    tick(visit, "Columns", *("NLL, nats", "ECE, %"))
    name, text = saved(visit, "LaTeX")
    assert name.endswith(".costs.tex")
    assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\begin{tabular}{lrl"))
    assert "Accuracy (\\%)" in text
    assert "0.25$\\times$" in text
    lines = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert len(lines) == len(shown(visit))
    assert {line.count(" & ") for line in lines} == {len(heads(visit)) - 1}
    assert "$\\pm$" in lines[0]
    assert not any(sign in text for sign in "×±−–▲")


def test_hostile_words_are_escaped_in_what_is_saved(browser: sync_api.Browser, tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    visit = Visit(browser, task_of(site))
    tick(visit, "Columns", "Method")
    _, text = saved(visit, "LaTeX")
    assert "<img" not in text
    assert "\\textless{}img src=x onerror=alert(1)\\textgreater{}" in text
    _, text = saved(visit, "CSV")
    assert next(csv.DictReader(io.StringIO(text)))["method"] == HOSTILE
    assert visit.wrong == []


def test_what_is_shown_can_be_copied(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    visit.page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    bar(visit).locator("details.menu").last.locator("summary").click()
    bar(visit).get_by_role("button", name="Copy as CSV").click()
    assert visit.page.evaluate("window.copied").startswith("entry,budget,state,accuracy,accuracy_half,")
    assert bar(visit).get_by_role("status").inner_text() == "Copied as CSV."


def test_papers_are_saved_as_bibtex(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    visit.page.get_by_text("Papers of the methods on this page").click()
    with visit.page.expect_download() as waiting:
        visit.page.locator("button.save:visible").click()
    assert waiting.value.suggested_filename == f"{task_of(site).stem}.bib"
    assert waiting.value.path().read_text().count("@inproceedings{") == 1  # every made-up method cites one paper


def test_two_entries_are_compared_seed_by_seed(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, compare_of(site))
    rows = list(csv.DictReader((site / f"compare/{compare_of(site).stem}.against.csv").open()))
    wanted = {row["budget"]: row for row in rows if row["label"] == "ssn" and row["difference"]}
    for first, second, sign in (("ssn", "narrow", 1), ("narrow", "ssn", -1)):
        visit.page.get_by_label("First").select_option(first)
        visit.page.get_by_label("Second").select_option(second)
        visit.page.locator("#pair .plot .scatterlayer .trace").wait_for()
        found = {row[0].removesuffix("×"): row for row in shown(visit, "pairs")}
        for budget, row in wanted.items():
            mean, half = (float(part.strip("▲▼=?+ ").replace("−", "-")) for part in found[budget][3].split("±"))
            assert mean == pytest.approx(sign * 100 * float(row["difference"]), abs=0.006)
            assert half == pytest.approx(50 * (float(row["high"]) - float(row["low"])), abs=0.006)
            assert found[budget][4] == row["common_seeds"]
    again = Visit(browser, compare_of(site), fragment=f"#{visit.page.url.partition('#')[2]}")
    assert shown(again, "pairs") == shown(visit, "pairs")
    sync_api.expect(visit.page.locator("table.prices tbody tr")).to_have_count(4)
    assert again.wrong == visit.wrong == []


MARKS = {"▲": "higher", "▼": "lower", "=": "tie", "?": "too few"}


def compared(visit: Visit, first: str, second: str) -> dict[str, str]:
    """The verdict that the compare page shows of a pair, by budget."""
    visit.page.get_by_label("First").select_option(first)
    visit.page.get_by_label("Second").select_option(second)
    return {row[0]: MARKS.get(row[3][:1], "") for row in shown(visit, "pairs")}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a task where some pairs can be told apart."""
    root = tmp_path_factory.mktemp("told")
    realistic(root / "runs", seeds=10)
    return build_site(root / "runs", root / "site").index.parent


def test_the_compare_page_marks_a_pair_as_the_tasks_page_does(browser: sync_api.Browser, told: Path) -> None:
    rows = list(csv.DictReader((told / f"tasks/{task_of(told).stem}.accuracy.csv").open()))
    letters = {(row["label"], f"{row['budget']}×"): row["letters"] for row in rows if row["ranked"] == "yes"}
    visit = Visit(browser, compare_of(told))
    seen = set()
    for first, second in (("ssn", "naive"), ("naive", "shallow"), ("template-bank", "hashed"), ("ssn", "shallow")):
        for budget, verdict in compared(visit, first, second).items():
            if (first, budget) in letters and (second, budget) in letters:
                together = {*letters[first, budget]} & {*letters[second, budget]}
                assert (verdict == "tie") == bool(together), (first, second, budget)
                seen.add(verdict)
            else:
                assert verdict == ""
    assert {"higher", "tie"} <= seen
    assert visit.wrong == []


def test_a_pair_with_the_control_has_the_verdict_of_the_test_against_it(browser: sync_api.Browser, told: Path) -> None:
    visit = Visit(browser, compare_of(told))
    rows = list(csv.DictReader((told / f"compare/{compare_of(told).stem}.against.csv").open()))
    other_way = {"higher": "lower", "lower": "higher"}
    seen = set()
    for label in ("ssn", "shallow"):
        forth, back = compared(visit, label, "narrow"), compared(visit, "narrow", label)
        for row in rows:
            if row["label"] == label and row["difference"]:
                verdict = row["verdict"]
                assert forth[f"{row['budget']}×"] == verdict
                assert back[f"{row['budget']}×"] == other_way.get(verdict, verdict)
                seen.add(verdict)
    assert {"higher", "lower"} <= seen


def test_the_same_examples_are_counted_against_the_control(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, compare_of(site), fragment="#?pair.first=ssn&pair.second=narrow")
    forth = shown(visit, "examples")
    visit.page.get_by_role("button", name="Swap").click()
    back = shown(visit, "examples")
    assert forth
    assert [[row[0], row[1], row[3], row[2], row[4]] for row in back] == forth
    assert all(sum(map(float, row[1:])) == pytest.approx(100, abs=0.03) for row in forth)
    visit.page.get_by_label("First").select_option("hashed")
    visit.page.get_by_label("Second").select_option("naive")
    assert not visit.page.locator("table.examples").is_visible() or shown(visit, "examples") != forth


def test_everything_can_be_reached_and_used_by_keyboard(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    bar(visit).locator("input.finder").focus()
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    sync_api.expect(bar(visit).locator("details.menu[open]")).to_have_count(1)
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Space")
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate(ring) != "none"
    assert len({row[0].split()[0] for row in shown(visit)}) == 1
    visit.page.keyboard.press("Escape")
    sync_api.expect(bar(visit).locator("details.menu[open]")).to_have_count(0)
    assert visit.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    head = visit.page.locator('table.costs th[data-key="accuracy"]')
    head.locator("[tabindex]").first.focus()
    visit.page.keyboard.press("Enter")
    sync_api.expect(head).to_have_attribute("aria-sort", "descending")


def test_a_menu_closes_when_something_else_is_clicked(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site))
    bar(visit).locator("summary").first.click()
    visit.page.locator("h1").click()
    sync_api.expect(bar(visit).locator("details.menu[open]")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_kind_of_page(browser: sync_api.Browser, site: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    for path in some_pages(site):
        visit = Visit(browser, path, scheme=scheme)
        visit.page.wait_for_timeout(400)
        if visit.page.locator("details.menu").count():
            visit.page.locator("details.menu summary").first.click()
        found = axe.run(visit.page).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == [], path


def test_a_page_prints_all_rows_and_no_controls(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site), scheme="dark")
    visit.page.emulate_media(media="print")
    sync_api.expect(visit.page.locator(".tools").first).not_to_be_visible()
    sync_api.expect(visit.page.locator("header.top")).not_to_be_visible()
    sync_api.expect(visit.page.locator("table.costs tbody tr").last).to_be_visible()
    box = visit.page.locator(".scroll:has(table.costs)")
    assert box.evaluate("box => getComputedStyle(box).overflowY") == "visible"


def test_charts_are_printed_in_the_colours_of_paper(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, task_of(site), scheme="dark")
    visit.page.locator(".plot .scatterlayer .trace").first.wait_for()
    stroke = "document.querySelector('.plot .legend .js-line').style.stroke"
    dark = visit.page.evaluate(stroke)
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.page.evaluate(stroke) != dark
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.evaluate(stroke) == dark
    assert visit.wrong == []


def test_charts_that_were_not_in_view_yet_are_drawn_before_the_page_is_printed(
    browser: sync_api.Browser, site: Path
) -> None:
    visit = Visit(browser, task_of(site))
    visit.page.locator("figure.chart").first.scroll_into_view_if_needed()
    visit.page.locator(".plot .scatterlayer .trace").first.wait_for()
    empty = "[...document.querySelectorAll('figure.chart')].filter(box => box.offsetParent && !box.querySelector('.trace')).length"
    assert visit.page.evaluate(empty) > 0
    visit.page.emulate_media(media="print")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.page.evaluate(empty) == 0
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.locator("figure.chart .late").count() == 0
    assert visit.wrong == []


def test_a_chart_that_cannot_be_drawn_before_printing_says_so_on_paper(browser: sync_api.Browser, site: Path) -> None:
    page = browser.new_page()
    page.route("**/plotly.min.js", lambda route: None)  # still on its way
    page.goto(task_of(site).as_uri(), wait_until="domcontentloaded")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert "was not drawn yet" in page.locator("figure.chart .late").first.inner_text()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("figure.chart .late").count() == 0


class Links(HTMLParser):
    """Every address on a page, and every name that a fragment can call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.names.add(value)


def test_every_link_of_the_whole_site_resolves(site: Path) -> None:
    pages = {path.resolve(): Links(path) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 140
    outside = ("https://", "http://", "data:")
    for path, page in pages.items():
        for link in page.links:
            if not link.startswith(outside):
                target, _, fragment = link.partition("#")
                found = (path.parent / target).resolve() if target else path
                assert found.is_file(), (path, link)
                assert found not in pages or fragment in pages[found].names, (path, link)


def test_the_theme_follows_the_system_and_a_choice_is_kept(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, site / "index.html", scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(ground)
    visit.page.click("#theme")
    light = visit.page.evaluate(ground)
    visit.page.reload()
    assert visit.page.evaluate(ground) == light != dark


def test_a_number_leads_to_its_runs(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, next((site / "tasks").glob("*.html")))
    visit.page.locator("table.standings td a").first.click()
    visit.page.locator("tr:target a.chip").first.click()
    assert "seed" in visit.page.locator("h1").inner_text()
    assert visit.wrong == []


def test_without_scripts_the_tables_stand(browser: sync_api.Browser, site: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(next((site / "tasks").glob("*.html")).as_uri())
    sync_api.expect(page.locator("table.standings tbody tr")).to_have_count(len(LABELS))
    sync_api.expect(page.locator("#theme")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_sharing_map_is_drawn_in_its_box(browser: sync_api.Browser, site: Path, width: int, scheme: str) -> None:
    path = next((site / "runs").rglob("ssn-*.html"))
    visit = Visit(browser, path, width, scheme)
    boxes = visit.page.locator(".map").all()
    assert len(boxes) == 3
    assert all(box.evaluate("box => box.clientWidth") <= width for box in boxes)
    bars = visit.page.locator(".map tbody .bar").all()
    assert len(bars) == 11
    for bar in bars:
        drawn, picture = bar.bounding_box(), bar.locator("..").bounding_box()
        assert drawn is not None
        assert picture is not None
        assert drawn["width"] >= 0.3
        assert drawn["x"] >= picture["x"] - 3
        assert drawn["x"] + drawn["width"] <= picture["x"] + picture["width"] + 3
    fills = {bar.evaluate("bar => getComputedStyle(bar).fill") for bar in bars}
    assert len(fills) == 2  # resized layers are hollow
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.wrong == []


@pytest.mark.parametrize("width", [390, 1280])
def test_anytime_curves_are_drawn_for_the_budget_that_is_chosen(
    browser: sync_api.Browser, tmp_path: Path, width: int
) -> None:
    ensembles(tmp_path / "runs", seeds=3)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    visit = Visit(browser, next((site / "tasks").glob("*.html")), width)
    panels = visit.page.locator("#anytime .panel")
    for title in ("1×", "0.25×"):
        button = visit.page.get_by_role("button", name=title, exact=True)
        button.click()
        sync_api.expect(button).to_have_attribute("aria-pressed", "true")
        assert [panel.is_visible() for panel in panels.all()] == [title == "0.25×", title == "1×"]
        shown = panels.nth(("0.25×", "1×").index(title))
        for figure in shown.locator("figure.chart").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".scatterlayer .trace").first.wait_for()
        assert shown.locator("table.anytime tbody tr").count() > 10
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.wrong == []


def test_a_chart_in_a_panel_that_closes_and_opens_keeps_the_pages_width(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    ensembles(tmp_path / "runs", seeds=3)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    visit = Visit(browser, next((site / "tasks").glob("*.html")), 900)
    first, second = (visit.page.get_by_role("button", name=title, exact=True) for title in ("0.25×", "1×"))
    panels = visit.page.locator("#anytime .panel")
    # Closed in the same moment in which its charts come into view.
    visit.page.evaluate(
        """() => { const panel = document.querySelector("#anytime .panel:not([hidden])");
        panel.scrollIntoView(); requestAnimationFrame(() => setTimeout(() => { panel.hidden = true; })); }"""
    )
    visit.page.wait_for_timeout(200)
    for button, panel in ((second, panels.nth(1)), (first, panels.nth(0))):
        button.click()
        for figure in panel.locator("figure.chart").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".scatterlayer .trace").first.wait_for()
    visit.page.set_viewport_size({"width": 390, "height": 900})
    for button in (second, first):
        button.click()
        visit.page.wait_for_timeout(1000)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.wrong == []


def test_without_scripts_every_budgets_subsets_stand(browser: sync_api.Browser, tmp_path: Path) -> None:
    ensembles(tmp_path / "runs", seeds=3)
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(next((site / "tasks").glob("*.html")).as_uri())
    assert [table.is_visible() for table in page.locator("table.anytime").all()] == [True, True]
    sync_api.expect(page.get_by_role("heading", name="At 0.25×")).to_be_visible()


def test_hostile_names_run_nothing(browser: sync_api.Browser, tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    for path in sorted(site.rglob("*.html")):
        visit = Visit(browser, path, width=390)
        visit.page.wait_for_timeout(200)
        assert visit.wrong == [], path
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, path
