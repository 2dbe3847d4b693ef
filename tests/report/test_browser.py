"""The page in a browser: its script, keyboard, themes and print, without any request."""

import re
import shutil

import pytest

from alexnet.report.page.build import Choices, build
from alexnet.report.page.subject import Reading, open_subject
from tests.report.conftest import made_up
from tests.report.test_page import HOSTILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(run_path, tmp_path_factory):
    """A page of two runs."""
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(run_path, folder / "second")
    subjects = [open_subject(str(path), Reading()) for path in (run_path, folder / "second")]
    target = folder / "page.html"
    target.write_text(build(subjects, Choices(framework="jax", examples=100)))
    return target


@pytest.fixture
def page(chromium, file, request):
    """The page, opened from the disk; complaints and requests fail the test."""
    page = chromium.new_page(
        viewport={"width": 1200, "height": 900}, **getattr(request, "param", {})
    )
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda made: problems.append(made.url[:200]))
    page.goto(file.as_uri())
    page.wait_for_selector("#chart-loss polyline")
    yield page
    asked = [p for p in problems if not p.startswith(("data:", file.as_uri()))]
    page.close()
    assert asked == []


def test_control_the_policy_stops_what_a_page_should_not_do(chromium, file, tmp_path):
    text = file.read_text()
    inserted = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script></main>'
    (tmp_path / "bad.html").write_text(text.replace("</main>", inserted))
    page, said = chromium.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "bad.html").as_uri())
    assert page.title() != "run"
    assert len([words for words in said if "Content Security Policy" in words]) >= 2
    page.close()


def test_curves_are_drawn_and_hover_shows_the_nearest_step(page):
    for chart in ("#chart-loss", "#chart-error"):
        assert page.locator(f"{chart} polyline.raw").count() == 2
        assert page.locator(f"{chart} polyline.mean").count() == 2
        assert page.locator(f"{chart} circle").count() == 4  # two evaluations a run
    tip = page.locator("#chart-loss .tip")
    assert tip.is_hidden()
    drawing = page.locator("#chart-loss svg")
    box = drawing.bounding_box()
    drawing.hover(position={"x": box["width"] * 0.75, "y": box["height"] / 2})
    assert re.match(r"step 3\nfirst run: training \d.*evaluation \d.* at [24]\nsecond: ",
                    tip.text_content())  # fmt: skip
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_arrow_keys_read_values(page):
    page.locator("#chart-loss svg").focus()
    read = []
    for key in ("Home", "ArrowRight", "End", "ArrowLeft"):
        page.keyboard.press(key)
        read.append(page.locator("#readout").text_content().split(";")[0])
    assert read == ["step 1", "step 2", "step 4", "step 3"]
    page.keyboard.press("Escape")
    assert page.locator("#chart-loss .tip").is_hidden()


def test_switches_and_legend(page):
    def labels(chart="#chart-loss", axis="y"):
        return page.locator(f"{chart} .tick-{axis}").all_text_contents()

    linear, error = labels(), labels("#chart-error")
    page.get_by_label("log loss").check()
    assert labels() != linear
    assert "0" in linear
    assert "0" not in labels()
    assert labels("#chart-error") == error
    page.get_by_label("log steps").check()
    assert "0" not in labels(axis="x")
    button = page.get_by_role("button", name="second")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("#chart-loss polyline.mean").count() == 1
    page.get_by_role("button", name="first run").click()  # none is left
    page.locator("#chart-loss svg").hover()
    button.press("Enter")
    assert page.locator("#chart-loss polyline.mean").count() == 1


def test_matrix_and_occlusion_name_their_cells(page):
    frame, value = page.locator("[data-heat=confusion-data]"), page.locator("#confusion-value")
    frame.focus()
    for key, words in (("ArrowDown", "true 0, predicted 0"), ("ArrowDown", "true 1, predicted 0"),
                       ("ArrowRight", "true 1, predicted 1"), ("ArrowUp", "true 0, predicted 1"),
                       ("ArrowUp", "true 0, predicted 1")):  # fmt: skip
        page.keyboard.press(key)
        assert re.fullmatch(rf"{words}: \d+", value.text_content())
    area = frame.locator(".heat-area").bounding_box()
    frame.scroll_into_view_if_needed()
    frame.locator(".heat-area").hover(
        position={"x": area["width"] * 0.75, "y": area["height"] * 0.35}
    )
    assert value.text_content().startswith("true 3, predicted 7: ")
    cursor = frame.locator(".heat-cursor").bounding_box()
    assert abs(cursor["width"] - area["width"] / 10) < 1
    page.locator("[data-heat=occlusion-0-data]").focus()
    page.keyboard.press("ArrowLeft")
    assert re.fullmatch(
        r"row 1, column 1 covered: [\d.]+ %", page.locator("#occlusion-0-value").text_content()
    )


def test_the_table_of_classes_sorts(page):
    def column(number):
        return page.locator(f".sortable tbody tr > :nth-child({number})").all_text_contents()

    head = page.locator(".sortable th", has=page.get_by_role("button", name="accuracy"))
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    shares = [float(text.split()[0]) for text in column(4)]
    assert shares == sorted(shares)
    head.get_by_role("button").press("Enter")
    assert [float(text.split()[0]) for text in column(4)] == sorted(shares, reverse=True)
    page.locator(".sortable th button", has_text="class").click()
    assert column(1) == [str(n) for n in range(10)]


def test_hostile_names_run_nothing(chromium, tmp_path):
    subject = made_up(HOSTILE)
    subject.name = HOSTILE[1]
    subject.metrics = [{"step": 1.0, "split": "eval", "loss": 1.0, "top1": 0.5}]
    (tmp_path / "page.html").write_text(build([subject], Choices(examples=20)))
    page, said = chromium.new_page(), []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("#chart-loss svg").press("End")
    assert HOSTILE[1] in page.locator("#chart-loss .tip").text_content()
    page.locator("[data-heat=confusion-data]").press("ArrowDown")
    assert HOSTILE[0] in page.locator("#confusion-value").text_content()
    assert page.locator(".legend button").text_content() == HOSTILE[1]
    assert said == []
    page.close()


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_dark_by_preference_or_by_hand_and_light_on_paper(page):
    dark = page.evaluate(BACKGROUND)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150
    button = page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert sum(map(int, re.findall(r"\d+", page.evaluate(BACKGROUND)))) > 700
    button.click()
    assert page.evaluate(BACKGROUND) == dark
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    assert page.locator("details table").first.is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.evaluate(BACKGROUND) == dark
    assert page.pdf(format="A4").startswith(b"%PDF")


CONTRAST = """
() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  const found = [];
  const kinds = "p, h1, h2, h3, a, th, td, li span, figcaption, caption, small, label, button, "
    + "output, summary";
  for (const e of document.querySelectorAll(kinds)) {
    if (!e.textContent.trim() || !e.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([e.tagName, e.textContent.slice(0, 40), ratio]);
  }
  return found;
}
"""


@pytest.mark.parametrize(
    "page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True
)
def test_contrast_of_text(page):
    assert page.evaluate(CONTRAST) == []
    page.evaluate(
        "document.querySelector('h1').style.color = getComputedStyle(document.body).backgroundColor"
    )
    assert page.evaluate(CONTRAST) != []  # control: it does measure


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_narrow_screens_and_no_motion(page):
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert page.locator("#chart-loss svg").bounding_box()["width"] <= 400


def test_everything_that_acts_can_be_reached_by_tab(page):
    acts = page.locator("button, input, a, summary, [tabindex='0']").all()
    wanted = sum(element.is_visible() for element in acts)
    seen = set()
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate("""() => {
            const e = document.activeElement;
            e.dataset.seen = e.dataset.seen || Math.random();
            return e === document.body ? '' : e.dataset.seen;
        }""")
        )
    assert len(seen - {""}) >= wanted
