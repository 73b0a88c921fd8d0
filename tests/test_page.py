"""The page of vqr1 report in a real browser: drawn, accessible, quiet, within narrow screens and on paper."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.made_runs import make_run, make_sweep
from vqr1.report.page import page
from vqr1.report.runs import find_runs

pytestmark = pytest.mark.page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZES = [(width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]
UNDRAWN = """[...document.querySelectorAll(".canvas")].filter((at) => {
  const canvas = at.querySelector("canvas");
  if (!canvas || !canvas.width) return true;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(pixels.buffer)).size < 4; // ground, grid, text, a line
}).map((at) => at.getAttribute("aria-labelledby"))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.fail("no chromium on this machine: .ci/debian chromium installs it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments, one with seeds as bands, one with a killed run whose answers are hostile."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = make_sweep(folder / "sweep-demo-0", (2, 4), (0.0, 0.04), (0, 1), probes=1, canary=True)
    other = make_run(
        folder / "<b>killed</b>",
        experiment="one & only",
        ended=False,
        answer="</script><script>fetch('https://example.org')</script><img src=x onerror=fetch('/x')><!--",
    )
    rows = (other / "answers.jsonl").read_text().splitlines()
    samples = [row.replace('"set"', '"dataset"') for row in rows if '"step": 10' in row]
    (other / "samples.jsonl").write_text("\n".join(samples) + "\n")
    return written(folder / "page.html", find_runs([sweep, other]))


def written(path: Path, runs: Any) -> Path:
    path.write_text(page(runs), encoding="utf-8")
    return path


class Opened:
    """A page that fails its test for every message of the console, error and request."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light"):
        self.heard: list[str] = []
        self._context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        self.tab = self._context.new_page()
        self.tab.on("console", lambda message: self.heard.append(message.text))
        self.tab.on("pageerror", lambda error: self.heard.append(str(error)))
        self.tab.on("request", lambda request: self.heard.append(request.url))
        self._address = file.resolve().as_uri()
        began = time.perf_counter()
        self.tab.goto(self._address)
        self.tab.wait_for_selector("html[data-ready]", state="attached")
        self.seconds = time.perf_counter() - began

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._context.close()
        if kind is None:
            assert [text for text in self.heard if not text.startswith(("data:image/jpeg", self._address))] == []


def axe() -> str:
    import axe_playwright_python

    return next(Path(str(axe_playwright_python.__file__)).parent.rglob("axe.min.js")).read_text()


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_every_figure_is_drawn_and_axe_finds_nothing(browser: Any, made: Path, width: int, scheme: str) -> None:
    with Opened(browser, made, width, scheme) as opened:
        folded = "details.more, article details, .plot:nth-child(-n+2) details"  # axe looks at every cell
        opened.tab.evaluate("(wanted) => document.querySelectorAll(wanted).forEach((e) => { e.open = true; })", folded)
        opened.tab.wait_for_function("!document.querySelector('.canvas:not([data-drawn])')")
        assert opened.tab.evaluate(UNDRAWN) == []
        assert opened.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        opened.tab.evaluate(axe())
        found = opened.tab.evaluate("(rules) => axe.run({ runOnly: rules })", RULES)
        assert [(each["id"], each["nodes"][0]["html"][:100]) for each in found["violations"]] == []
        pictures = opened.tab.evaluate("[...document.images].map((each) => each.naturalWidth)")
        assert pictures
        assert all(pictures)


def test_a_setting_can_be_left_out_of_the_curves(browser: Any, made: Path) -> None:
    shot = "document.querySelector('.canvas canvas').toDataURL()"
    with Opened(browser, made) as opened:
        before = opened.tab.evaluate(shot)
        button = opened.tab.locator(".legend button").first
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert opened.tab.evaluate(shot) != before
        button.click()
        assert opened.tab.evaluate(shot) == before


def test_colours_follow_the_system(browser: Any, made: Path) -> None:
    shot = "document.querySelector('.canvas canvas').toDataURL()"
    with Opened(browser, made) as opened:
        light = opened.tab.evaluate(shot)
        opened.tab.emulate_media(color_scheme="dark")
        opened.tab.wait_for_function(f"(light) => {shot} !== light", arg=light)
        assert opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"


def test_it_prints_in_light_colours(browser: Any, made: Path, tmp_path: Path) -> None:
    with Opened(browser, made, scheme="dark") as opened:
        content = opened.tab.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
        assert content.startswith(b"%PDF-")
        assert content.count(b"/Type /Page\n") >= 2
        opened.tab.emulate_media(media="print")
        assert opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert (
            opened.tab.evaluate("Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.clientWidth))")
            <= 330
        )


def test_without_a_script_the_numbers_are_there(browser: Any, made: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(made.as_uri())
    tab.locator("summary", has_text="Numbers of Reward: mean").first.click()
    assert tab.locator("figure table").first.is_visible()
    assert "the table below has its numbers" in tab.locator(".canvas").first.inner_text()
    context.close()


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fifty")
    long = (
        "<think>"
        + "It is sharp, and its colours are those of the scene. " * 12
        + "</think><answer>{score:.2f}</answer>"
    )
    betas = (0.0, 0.01, 0.04, 0.1, 0.2)
    return make_sweep(
        folder / "sweep", (2, 3, 4, 5, 6), betas, (0, 1), steps=500, evaluations=10, probes=4, answer=long
    )


def test_fifty_runs_in_one_page(browser: Any, fifty: Path, tmp_path: Path) -> None:
    """Under 15 MB, made in 10 s and ready in 3 s; seconds of the process, since this machine may be busy."""
    began = time.process_time()
    file = written(tmp_path / "page.html", find_runs([fifty]))
    made_in = time.process_time() - began
    with Opened(browser, file) as opened:
        ready = opened.tab.evaluate("performance.now()") / 1000
        print(f"50 runs: {file.stat().st_size / 1e6:.1f} MB, made in {made_in:.1f} s, ready in {opened.seconds:.1f} s")
        assert opened.tab.evaluate("document.querySelectorAll('[data-drawn]').length") > 10
    assert file.stat().st_size < 15e6
    assert made_in < 10
    assert min(ready, opened.seconds) < 3
