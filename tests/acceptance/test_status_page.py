"""A night is seen from outside: the page of a running batch in a real browser, and its report as a file."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, read_results, statuses, write_manifest, write_table
from tests.acceptance.browser import PROGRAM, Browser, browser
from tests.acceptance.place import Place, Running, Server, until
from tests.integration.servers import free_port

FAULTS = "seed = 4\n[put]\nlost_answer = 0.08\ncut = 0.05\n[jobs]\nfailed = 0.05\n"
TOKEN = "the-token-of-the-page"
# of the page: the items by state that it shows
COUNTS = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('#counts tr')].map(
    (row) => [row.dataset.state, Number(row.cells[1].textContent.replace(/\\D/g, ''))])))"""
DONE = "(document.querySelector('#counts [data-state=completed] .n') || {textContent: '0'}).textContent"
# notes that a slot was shown as taken, however short a time
SEES_SLOTS = """new MutationObserver(() => {
    window.sawSlots ||= document.querySelectorAll('.cells li:not(.free)').length > 0;
}).observe(document.getElementById('accounts'), {childList: true, subtree: true})"""
FOCUSABLE = (
    "[...document.querySelectorAll('button, summary, a[href], [tabindex]')].filter((one) => one.checkVisibility())"
)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is here: Debian's package chromium")


@pytest.fixture
def page() -> Iterator[Browser]:
    """A browser."""
    with browser() as made:
        yield made


def bad_night(place: Place, port: int, *flags: str) -> tuple[Server, Running]:
    """Start a run of 60 items with faults, whose service stands still, and wait until its page is served."""
    rows = make_rows(place, 60, 12)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "4", "--job-seconds", "0.4", faults=FAULTS)
    place.use(server)
    server.running.pause()
    run = place.start("run", "m.csv", "--limit", "4", "--doubt-seconds", "1", "--status", f"127.0.0.1:{port}", *flags)
    until(lambda: run.is_over or fetched(port, "/healthz")[0] == 200, "the page is served")
    return server, run


def fetched(port: int, path: str, **heads: str) -> tuple[int, str]:
    """Fetch a path; 0 where nobody listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=heads)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@needs_browser
def test_a_night_with_faults_is_followed_in_a_browser(place: Place, page: Browser) -> None:
    """The counts change without a reload, and are the ledger's at the end; a doubt is seen with its commands.

    Nothing is complained of in the console. The page fits 360 pixels, and each part of it is reached by keyboard.
    """
    port = free_port()
    server, run = bad_night(place, port)
    page.shape(1200, 900)
    page.open(f"http://127.0.0.1:{port}/")
    page.evaluate(f"window.loadedOnce = true; {SEES_SLOTS}")
    page.wait("document.querySelector('#counts [data-state=pending]') !== null")
    server.running.go_on()
    begun = page.wait(f"Number({DONE}) > 0 && {DONE}")
    page.wait(f"{DONE} !== {json.dumps(begun)}")
    page.wait("document.querySelector('#groups [data-state=in_doubt] code') !== null")
    page.wait("window.sawSlots === true")
    ended = run.wait()
    assert ended.code == 4, ended.err
    page.wait("document.getElementById('link').textContent === 'the run has ended'")
    assert page.evaluate("window.loadedOnce") is True
    assert json.loads(page.evaluate(COUNTS)) == Counter(statuses(place.path("m.results.csv")))
    shown = page.evaluate("[...document.querySelectorAll('#groups code')].map((code) => code.textContent.trim())")
    for line in (line["line"] for line in read_results(place.path("m.results.csv")) if line["status"] == "in_doubt"):
        named = [command for command in shown if line in command.partition("--line ")[2].split(" ")[0].split(",")]
        assert {command.rpartition(" ")[2] for command in named} == {"--appended", "--not-appended", "--drop"}
    # what the page says is to be typed does settle: here for one group of items
    chosen = next(command for command in shown if command.endswith("--not-appended"))
    lines = chosen.partition("--line ")[2].split(" ")[0].split(",")
    place.run(*chosen.split(" ")[1:])
    place.run("results")
    settled = {line["line"]: line["status"] for line in read_results(place.path("m.results.csv"))}
    assert {settled[line] for line in lines} <= {"pending", "held"}
    check_narrow(page)
    check_keyboard(page)
    assert page.complaints == []


def check_narrow(page: Browser) -> None:
    """No part of the page is wider than a phone."""
    page.shape(360, 740)
    page.wait("document.documentElement.clientWidth === 360")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = "[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll') && "
    wide += "one.getBoundingClientRect().right > 360.5).length"
    assert page.evaluate(wide) == 0


def check_keyboard(page: Browser) -> None:
    """The tabulator comes to each thing that does something, and Enter opens what is folded."""
    page.evaluate("document.activeElement.blur()")
    wanted = page.evaluate(f"{FOCUSABLE}.length")
    assert wanted > 2
    seen = set()
    for _ in range(3 * wanted):
        page.press("Tab", 9)
        seen.add(page.evaluate(f"{FOCUSABLE}.indexOf(document.activeElement)"))
        if page.evaluate("document.activeElement.tagName === 'SUMMARY' && !document.activeElement.parentNode.open"):
            page.press("Enter", 13)
            assert page.evaluate("document.activeElement.parentNode.open")
    assert set(range(page.evaluate(f"{FOCUSABLE}.length"))) <= seen


@needs_browser
def test_a_browser_brings_the_token_as_a_password(place: Place, page: Browser) -> None:
    """With the token the page and its events are shown, without it nothing is."""
    port = free_port()
    place.environment["UPLOADER_STATUS_TOKEN"] = TOKEN
    server, run = bad_night(place, port)
    assert fetched(port, "/") == (401, "")
    page.open(f"http://127.0.0.1:{port}/", token=TOKEN)
    page.wait("document.querySelector('#counts [data-state=pending]') !== null")
    server.running.go_on()
    page.wait(f"Number({DONE}) > 0")
    run.wait()
    assert page.complaints == []
    assert TOKEN not in run.err.read_text() + place.path("m.results.csv").read_text()


def test_page_and_callbacks_share_one_address(place: Place) -> None:
    """Jobs tell of themselves at the address at which the page is read; figures and health are there, too."""
    port = free_port()
    hook = ("--webhook", f"127.0.0.1:{port}", "--webhook-url", f"http://127.0.0.1:{port}/jobs")
    server, run = bad_night(place, port, *hook)
    assert fetched(port, "/readyz") == (200, "ready\n")
    seen = json.loads(fetched(port, "/status.json")[1])
    assert seen["progress"]["items"] == 60
    assert "uploader_run_active 1.0" in fetched(port, "/metrics")[1]
    assert fetched(port, "/", Host="evil.example.com") == (421, "")
    server.running.go_on()
    assert run.wait().code in (1, 4)
    assert any(entry.status == 200 for entry in server.journal.calls())


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_a_page_that_others_reach_asks_for_a_token(place: Place, host: str) -> None:
    """Nothing is sent before there is one; the message says what to set."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    ended = place.run("run", "m.csv", "--sandbox", "--status", f"{host}:{free_port()}")
    assert (ended.code, "UPLOADER_STATUS_TOKEN" in ended.err) == (2, True)


def night_with_decisions(place: Place) -> Path:
    """Run a night with faults and texts that would break a page, decide about a doubt, and write the report."""
    rows = make_rows(place, 60, 12)
    cells = [
        {"conversationId": row.conversation, "audioPath": row.audio, "x-team": f"</script><b>{number % 3}\u202e"}
        for number, row in enumerate(rows)
    ]
    write_table(place, "m.csv", cells)
    server = place.serve("--limit", "4", faults=FAULTS)
    place.use(server)
    assert place.run("run", "m.csv", "--limit", "4", "--doubt-seconds", "1").code == 4
    place.run("resolve", "--state", "in_doubt", "--drop", "--note", "<img src=x onerror=alert(1)>")
    assert place.run("results").code == 0
    ended = place.run("report", "--html", "night.html")
    assert (ended.code, ended.out) == (0, "night.html\n")
    return place.path("night.html")


@needs_browser
def test_a_report_opens_anywhere_and_fetches_nothing(place: Place, page: Browser) -> None:
    """From the file alone: the ledger's counts, the slots, the bill by state and column, the decisions.

    Whatever stands in the ledger is text, with bidi marks shown as what they are.
    """
    path = night_with_decisions(place)
    text = path.read_text(encoding="utf-8")
    assert "\u202e" not in text
    assert text.count("<script") == text.count("</script>") == 2
    page.shape(1200, 900)
    page.open(path.as_uri())
    assert json.loads(page.evaluate(COUNTS)) == Counter(statuses(place.path("m.results.csv")))
    assert page.evaluate("document.querySelectorAll('#night-picture .tone').length") >= 50
    teams = page.evaluate(
        "[...document.querySelectorAll('#bill-tables td:first-child')].map((cell) => cell.textContent)"
    )
    assert {rf"</script><b>{number}\u202e" for number in range(3)} <= set(teams)
    assert page.evaluate("document.querySelectorAll('#decision-rows tr').length") > 0
    assert "<img src=x" in page.evaluate("document.getElementById('decision-rows').textContent")
    assert page.evaluate("document.images.length + document.querySelectorAll('main b:not(.cells b)').length") == 0
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    check_narrow(page)
    check_keyboard(page)
    assert page.complaints == []


def test_a_report_is_its_own_file_and_no_other(place: Place) -> None:
    """It is written anew over itself; another file, a folder, and a batch that there is not, are refused."""
    night_with_decisions(place)
    assert place.run("report", "--html", "night.html").code == 0
    place.write("mine.html", "<html>mine</html>")
    ended = place.run("report", "--html", "mine.html")
    assert (ended.code, place.path("mine.html").read_text()) == (2, "<html>mine</html>")
    assert place.run("report", "--html", ".").code == 2
    assert place.run("report", "--html", "x.html", "--batch", "nothing").code == 2
    assert place.run("report").code == 2
    told = place.run("report", "--json").summary
    states = {row["value"]: row["items"] for row in told["bill"][0]["rows"]}
    assert states == Counter(statuses(place.path("m.results.csv")))
