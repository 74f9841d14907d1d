"""The site in a real browser, from disk: no error, no request off the page, and it works on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ensemble_records import ensembles
from records import LABELS, hostile, realistic

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

    def __init__(self, browser: sync_api.Browser, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.wrong: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.on(
            "console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.goto(path.as_uri(), wait_until="load")

    def _check(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"request {url}")


def some_pages(site: Path) -> list[Path]:
    folders = ("tasks", "methods", "runs/*")
    return [site / "index.html", *(sorted(site.glob(f"{folder}/*.html"))[0] for folder in folders)]


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
    for sign in (-1, 1):
        head.click()
        visit.page.wait_for_timeout(300)
        read = visit.page.evaluate(keys)
        numbers = [float(key) for key in read if key]
        assert len(numbers) > 3
        assert numbers == sorted(numbers, key=lambda value, sign=sign: sign * value)
        assert all(key == "" for key in read[len(numbers) :])
    assert visit.wrong == []


def test_rows_can_be_filtered(browser: sync_api.Browser, site: Path) -> None:
    visit = Visit(browser, next((site / "tasks").glob("*.html")))
    visit.page.fill("input.finder", "roast")
    heads = visit.page.locator("table.details tbody th").all_inner_texts()
    assert heads
    assert all("roast" in head for head in heads)


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
    assert page.locator("table.standings tbody tr").count() == len(LABELS)
    assert not page.locator("#theme").is_visible()


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
        assert button.get_attribute("aria-pressed") == "true"
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
    assert page.get_by_role("heading", name="At 0.25×").is_visible()


def test_hostile_names_run_nothing(browser: sync_api.Browser, tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    site = build_site(tmp_path / "runs", tmp_path / "site").index.parent
    for path in sorted(site.rglob("*.html")):
        visit = Visit(browser, path, width=390)
        visit.page.wait_for_timeout(200)
        assert visit.wrong == [], path
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, path
