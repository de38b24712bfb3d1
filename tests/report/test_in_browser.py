"""The page in a real browser: what its scripts do, that nothing else runs, and how long it takes to open."""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import time

import pytest

from alignjax.records.answer import DialPoint
from alignjax.report import Response, Sample, render
from alignjax.report.flips import Flip, Flips
from alignjax.report.run_comparison import ComparedRun, write_run_comparison

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the path")


@pytest.fixture
def opened(tmp_path):
    """opened(page, driver, width): what a script added to the page finds, and the browser's complaints.

    The driver's function `found(value)` hands its value back. It may run because its digest is added to the
    page's policy.
    """

    def run(page, driver="found(1)", width=800):
        text = (
            "const found = (value) => { const out = document.createElement('pre'); out.id = 'found'; "
            "out.textContent = JSON.stringify(value); document.body.append(out); };\n"
            "const $ = (query) => document.querySelector(query);\n"
            "const later = (work) => new Promise((done) => setTimeout(() => done(work()), 300));\n"
            f"(async () => {{ {driver} }})();"
        )
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        if "script-src " in page:
            page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        else:
            page = page.replace("img-src data:", f"img-src data:; script-src 'sha256-{digest}'", 1)
        page = page.replace("</body>", f"<script>{text}</script></body>")
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += [f"--window-size={width},900"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom"]
        ended = subprocess.run(
            [*command, path.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120
        )
        value = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, flags=re.DOTALL)
        assert value, ended.stderr[-2000:]
        said = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
        text = value[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        return json.loads(text), said

    return run


@pytest.fixture
def many(inputs):
    """Inputs with 30 prompts whose aligned policy is better by the prompt's number; every third refuses."""

    def sample(i):
        text = "sorry , no ." if i % 3 == 0 else f"answer {i}"
        return Sample(
            f"prompt {i}",
            {
                "reference": [Response(f"plain {i}", (0.0, 0.0), False, 5)] * 2,
                "aligned": [
                    Response(text, (0.1, float(i)), i % 3 == 0, 4 + i),
                    Response("second draw", (0.1, float(i)), False, 4),
                ],
            },
            "crime" if i % 2 else "health",
        )

    return dataclasses.replace(inputs(truth=False), samples=[sample(i) for i in range(30)])


STATE = """({count: $("[data-count]").textContent,
  first: $("#samples-list .prompt")?.textContent ?? null,
  prompts: document.querySelectorAll("#samples-list li").length})"""


def test_the_page_opens_on_its_first_page_without_a_complaint(opened, many):
    found, said = opened(render(many, []), f"found({STATE})")
    assert found == {"count": "1 to 20 of 30 prompts", "first": "prompt 0", "prompts": 20} and said == []


def test_a_complaint_would_be_seen_and_another_script_does_not_run(opened, many):
    page = render(many, []).replace("</main>", "<script>document.title = 'run'</script></main>")
    title, said = opened(page, "found(document.title)")
    assert title == "PeCAN on assistant" and any("Content Security Policy" in line for line in said)


@pytest.mark.parametrize(
    ("field", "value", "count", "first"),
    [
        ("text", "PLAIN 17", "1 to 1 of 1 prompts", "prompt 17"),
        ("text", "nothing has this", "0 prompts", None),
        ("category", "crime", "1 to 15 of 15 prompts", "prompt 1"),
        ("refusal", "yes", "1 to 10 of 10 prompts", "prompt 0"),
        ("refusal", "no", "1 to 20 of 20 prompts", "prompt 1"),
        ("refusal", "differs", "1 to 10 of 10 prompts", "prompt 0"),
        ("order", "best-1", "1 to 20 of 30 prompts", "prompt 29"),
        ("order", "longest", "1 to 20 of 30 prompts", "prompt 29"),
        ("order", "worst-1", "1 to 20 of 30 prompts", "prompt 0"),
    ],
)
def test_filters_and_orders(opened, many, field, value, count, first):
    driver = f"""const tools = $("#samples-tools"); tools.elements["{field}"].value = "{value}";
      tools.dispatchEvent(new Event("input")); found(await later(() => {STATE}));"""
    found, said = opened(render(many, []), driver)
    assert (found["count"], found["first"], said) == (count, first, [])


def test_pages_and_draws(opened, many):
    driver = f"""$("[data-step='1']").click(); const next = {STATE};
      const tools = $("#samples-tools"); tools.elements.draw.value = "2";
      tools.dispatchEvent(new Event("input"));
      found([next, $("[data-step='1']").disabled,
        await later(() => $("#samples-list .answer:last-child .text").textContent)]);"""
    (after, disabled, drawn), said = opened(render(many, []), driver)
    assert after == {"count": "21 to 30 of 30 prompts", "first": "prompt 20", "prompts": 10}
    assert disabled and drawn == "second draw" and said == []


def test_the_dial_shows_the_row_and_the_flag_of_what_it_is_moved_to(opened, inputs, figure_of):
    given = inputs(truth=False)
    points = tuple(
        DialPoint("safety", "margin", x, x == 1, True, {"safety": x}, *[figure_of(x)] * 3)
        for x in (0.0, 1.0, 2.0)
    )
    given = dataclasses.replace(given, answer=dataclasses.replace(given.answer, dial=points), samples=())
    read = """({row: $(".dial tr.at th").textContent, flag: $(".dial-command code").textContent,
      values: [...document.querySelectorAll(".dial dd")].map((one) => one.textContent)})"""
    driver = f"""const before = {read}; const slider = $(".dial input"); slider.value = 2;
      slider.dispatchEvent(new Event("input")); found([before, {read}]);"""
    (before, after), said = opened(render(given, []), driver)
    assert before["row"] == "1.00" and before["values"][0] == "1.00, as in this run"
    assert after["row"] == after["values"][0] == "2.00"
    assert after["flag"] == "--config.constraints.safety.margin=2" and said == []


@pytest.fixture
def everything(many, figure_of):
    """Inputs with all sections, long words and several constraints."""
    word = "x" * 300
    points = tuple(
        DialPoint("safety", "margin", x, x == 1, True, {"safety": x}, *[figure_of(x)] * 3) for x in (0.0, 1.0)
    )
    turned = Flip(word, word, word, 0.9, ((1.0, 2.0), (0.0, 3.0)))
    wide = Sample(word, {name: [Response(word, (0.1, 0.2), False, 9)] for name in ("reference", "aligned")})
    return dataclasses.replace(
        many,
        answer=dataclasses.replace(many.answer, dial=points),
        samples=[wide, *many.samples],
        flips=[Flips("reward", 9, 5, 1, [turned] * 5)],
        findings=[word],
    )


@pytest.mark.parametrize("width", [500, 1440])
def test_no_section_is_wider_than_the_window(opened, everything, width):
    driver = """found([innerWidth, document.documentElement.scrollWidth,
      [...document.querySelectorAll("section, .card")].filter((one) =>
        one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.id || one.className)])"""
    (inner, scroll, wider), said = opened(render(everything), driver, width)
    assert inner == width and scroll <= inner and wider == [] and said == []


@pytest.mark.parametrize("width", [500, 1440])
def test_the_page_that_compares_runs_is_no_wider_either(opened, everything, width, tmp_path):
    given = everything
    runs = [
        ComparedRun(name, config, {}, given.answer, given.evaluation, True, "r", "s", "p")
        for name, config in (("a" * 200, {"path": "y" * 300}), ("b", {"path": "z"}))
    ]
    page = write_run_comparison(runs, tmp_path / "runs.html").read_text(encoding="utf-8")
    driver = "found([innerWidth, document.documentElement.scrollWidth])"
    (inner, scroll), said = opened(page, driver, width)
    assert inner == width and scroll <= inner and said == []


def test_every_control_and_picture_has_a_name_and_every_table_its_heads(opened, everything):
    driver = """const named = (one) =>
        one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim();
      found([[...document.querySelectorAll("input, select, button, svg[role=img], [role=region]")]
        .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 80)),
        [...document.querySelectorAll("table")].filter((one) => !one.caption).length,
        [...document.querySelectorAll("tbody tr")].filter((one) => !one.querySelector("th[scope=row]"))
          .length,
        [...document.querySelectorAll("[id]")].map((one) => one.id)
          .filter((id, i, all) => all.indexOf(id) < i)])"""
    found, said = opened(render(everything), driver)
    assert found == [[], 0, 0, []] and said == []


def test_text_of_a_model_runs_nothing(opened, many, hostile):
    bad = '<img src=x onerror="document.title=1">' + hostile
    samples = [one._replace(prompt=bad, category=bad) for one in many.samples]
    page = render(dataclasses.replace(many, samples=samples), [])
    found, said = opened(page, 'found([document.title, document.images.length, $(".prompt").textContent])')
    assert found == ["PeCAN on assistant", 0, bad] and said == []


def test_ten_thousand_responses_open_in_under_two_seconds(opened, many):
    text = "first do this , then do that , in full detail . " * 8  # 384 characters
    draws = [Response(text, (0.1, 0.2), False, 96)] * 20
    samples = [Sample(f"prompt {i}", {"reference": draws, "aligned": draws}) for i in range(250)]
    page = render(dataclasses.replace(many, samples=samples), [])
    assert page.count("in full detail") > 10_000 * 8
    start = time.perf_counter()
    opened(render(many, []))
    small = time.perf_counter() - start
    start = time.perf_counter()
    found, _ = opened(page, f"found({STATE})")
    # The browser's own start is in both.
    assert time.perf_counter() - start - small < 2.0 and found["prompts"] == 20
