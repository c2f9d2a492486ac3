"""The page in a real browser, on a real node: what a reviewer does in a morning."""

import itertools
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pydicom import dcmread
from sqlalchemy import delete, update

from db.audit import record
from db.tables import ExamRow, PredictionRow, WebSessionRow
from node.house import Node
from node.picture_cache import PictureCache
from node.roles import Role
from node.serving import open_node
from node.settings import load_settings
from node.users import add_user
from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import NodeProcess, dcmsend, free_port, wait_for
from tests.unit.node.web.conftest import PASSWORD, add_exam

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

USERS: dict[str, Role] = {"anna": "reviewer", "bert": "reviewer", "vera": "viewer", "adam": "administrator"}
PNG = cv2.imencode(".png", np.full((60, 80, 3), 90, np.uint8))[1].tobytes()
HTML = "<script>alert(1)</script>"
READ_WITHIN_MS = 60_000
PICTURED_WITHIN_MS = 60_000


@pytest.fixture
def node(start_pair: Callable[..., Pair]) -> NodeProcess:
    """Return a node that runs with its page, users, and an exam of each kind that no study gives at will."""
    node, _ = start_pair(http_port=free_port())
    with open_node(load_settings(node.config), stores=True) as opened:
        for name, role in USERS.items():
            add_user(opened, name, role, PASSWORD, actor="os:test")
        add_exam(opened, "failed", patient_id="F-1", error_step="read", error_text="the worker died")
        add_exam(opened, "unpredicted", patient_id="U-1")
        add_exam(opened, None, patient_id="W-1")
        newest = add_exam(opened, "healthy", patient_id="H-1", revision=2, completeness_verdict="incomplete")
        add_exam(opened, "unpredicted", patient_id="H-1", superseded_by=newest)
    node.start()
    return node


def log_in(context: BrowserContext, node: NodeProcess, name: str) -> Page:
    """Return a page on which someone is logged in; what goes wrong in it, a script's dialog too, fails."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"a script failed: {error}"))
    page.on("dialog", lambda dialog: pytest.fail(f"text became a script: {dialog.message}"))
    page.on("request", lambda request: _is_ours(request.url, node))
    at = f"http://127.0.0.1:{node.http_port}/"
    wait_for("the page", lambda: page.goto(at, wait_until="commit") if answers(node) else None, 30)
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#live .says")).to_have_text("Live")
    return page


def answers(node: NodeProcess) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _is_ours(url: str, node: NodeProcess) -> None:
    if not url.startswith(f"http://127.0.0.1:{node.http_port}/"):
        pytest.fail(f"the page asked elsewhere: {url}")


def test_a_study_is_read_reviewed_by_keyboard_and_seen_by_the_next_reviewer(  # noqa: PLR0915 - a morning is long
    node: NodeProcess, studies: Studies, chromium: Browser
) -> None:
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = log_in(context, node, "anna")
        page.evaluate("window.notReloaded = true")
        row = page.locator("tr.exam", has_text="P-LIVE")
        expect(row).to_have_count(0)
        paths = studies.write("1.2.826.0.9.1", studies.of("uc"), patient_id="P-LIVE")
        assert dcmsend(node.port, paths).returncode == 0
        expect(row).to_have_count(1, timeout=5_000)
        expect(row).to_contain_text("IBD pattern found", timeout=READ_WITHIN_MS)
        expect(row).to_contain_text("Delivered", timeout=READ_WITHIN_MS)
        assert page.evaluate("window.notReloaded"), "it came without a reload"

        page.select_option("[name=reading]", "ibd")
        expect(page.locator("tr.exam")).to_have_count(1)
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        large = page.locator("#large")
        expect(large).to_have_attribute("src", _ends("frame"), timeout=PICTURED_WITHIN_MS)
        for key, layer in (("h", "activation"), ("m", "filled"), ("v", "view"), ("v", "frame")):
            page.keyboard.press(key)
            expect(large).to_have_attribute("src", _ends(layer), timeout=PICTURED_WITHIN_MS)
        wait_for("the frame", lambda: bool(large.evaluate("image => image.naturalWidth")), 10)
        page.keyboard.press("+")
        expect(page.locator("#zoom-says")).to_have_text("150 %")
        assert "scale(1.5)" in large.evaluate("image => image.style.transform")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".strip button").nth(1)).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")

        page.keyboard.press("a")
        expect(page.locator(".who-is-it .verdict")).to_have_text("Accepted")
        page.keyboard.press("c")
        page.keyboard.type("Biopsies agree.")
        page.click("#add-comment")
        expect(page.locator(".reviews")).to_contain_text("Biopsies agree.")
        trail = page.locator(".audit tr", has_text="reading reviewed")
        expect(trail).to_have_count(2)
        expect(trail.first).to_contain_text("anna")
        exam = page.url.partition("#")[0]
    with chromium.new_context() as context:
        page = log_in(context, node, "bert")
        page.select_option("[name=review]", "accepted")
        expect(page.locator("tr.exam")).to_contain_text("P-LIVE")
        page.goto(exam)
        expect(page.locator(".reviews")).to_contain_text("anna")
        page.keyboard.press("r")
        page.keyboard.press("ArrowDown")
        page.click("#reject")
        expect(page.locator(".reviews li")).to_have_count(3)
        expect(page.locator(".who-is-it .verdict")).to_have_text("Rejected")
    with chromium.new_context() as context:
        page = log_in(context, node, "vera")
        page.goto(exam)
        expect(page.locator("#accept")).to_have_count(0)


def test_what_a_processor_writes_stays_text(node: NodeProcess, studies: Studies, chromium: Browser) -> None:
    """Patient ID, accession, device and date come from outside; none of them may write the page."""
    paths = studies.write("1.2.826.0.9.2", studies.of("normal"), patient_id=HTML, limit=3)
    for path in paths:
        ds = dcmread(path)
        ds.AccessionNumber, ds.ManufacturerModelName, ds.IssuerOfPatientID = "<b>A</b>", HTML, "<i>x</i>"
        ds.save_as(path)
    assert dcmsend(node.port, paths).returncode == 0
    with chromium.new_context() as context:
        page = log_in(context, node, "anna")
        row = page.locator("tr.exam", has_text=HTML)
        expect(row).to_have_count(1, timeout=READ_WITHIN_MS)
        expect(row).to_contain_text("<b>A</b>")
        row.locator("a.opens").click()
        expect(page.locator(".who-is-it .id")).to_contain_text(HTML)
        expect(page.locator(".who-is-it .id")).to_contain_text("<i>x</i>")
        assert page.locator("main script, main b, main i").count() == 0


@pytest.fixture
def page_alone(tmp_path: Path) -> Iterator[tuple[NodeProcess, Node]]:
    """Return a page whose exams do only what the test has them do, and its node."""
    process = NodeProcess(tmp_path / "node", port=free_port(), pacs_port=free_port(), http_port=free_port())
    with open_node(load_settings(process.config), stores=True) as opened:
        add_user(opened, "anna", "reviewer", PASSWORD, actor="os:test")
        process.start("page")
        yield process, opened
        process.kill()


def test_no_picture_stands_under_another_ones_words(
    page_alone: tuple[NodeProcess, Node], chromium: Browser
) -> None:
    """Nor does a key held down accept, and a reading that comes by itself can be gone through."""
    process, node = page_alone
    read, unread, other = (add_exam(node, each, evidence=2) for each in ("ibd", "ibd", None))
    _give_reading(node, unread, other)
    cache = PictureCache(node.settings)
    for exam, position in itertools.product((read, unread), (1, 2)):
        cache.keep(exam, position, "frame", PNG)
    cache.keep(read, 1, "view", PNG)
    with chromium.new_context() as context:
        page = log_in(context, process, "anna")
        exams = page.url + "exams/"
        page.goto(exams + read)  # frame 2 is not made yet as the model saw it
        large, note = page.locator("#large"), page.locator("#viewer-note")
        page.click("#toggle-view")
        expect(large).to_have_attribute("src", _ends("1/view"))
        expect(large).to_be_visible()
        page.click("#next-frame")
        expect(page.locator(".about:visible")).to_have_attribute("data-about", "2")
        expect(large).to_be_hidden()
        expect(note).to_have_text("Preparing the picture…")
        page.click("#toggle-frame")
        expect(large).to_be_visible()
        expect(large).to_have_attribute("src", _ends("2/frame"))
        page.route("**/1/frame.png", lambda route: route.abort())
        page.click("#previous-frame")
        expect(note).to_contain_text("cannot be had now")
        expect(large).to_be_hidden()
        held = "new KeyboardEvent('keydown', {key: 'a', repeat: true, bubbles: true})"
        page.evaluate(f"document.body.dispatchEvent({held})")
        expect(page.locator(".who-is-it .verdict")).to_have_text("To review")

        page.goto(exams + unread)
        expect(page.locator("#exam")).to_contain_text("appears here by itself")
        expect(page.locator("#live .says")).to_have_text("Live")
        page.unroute("**/1/frame.png")
        _give_reading(node, other, unread)
        expect(large).to_be_visible()
        page.click("#next-frame")
        expect(page.locator(".about:visible")).to_have_attribute("data-about", "2")
        expect(large).to_have_attribute("src", _ends("2/frame"))


def test_a_page_left_open_misses_nothing_and_outlives_no_session(
    page_alone: tuple[NodeProcess, Node], chromium: Browser
) -> None:
    process, node = page_alone
    exam = add_exam(node)
    with chromium.new_context() as context:
        worklist = log_in(context, process, "anna")
        tabs = [context.new_page() for _ in range(6)]
        for tab in tabs:  # a browser has six connections to a host
            tab.goto(f"{worklist.url}exams/{exam}")
            expect(tab.locator("#live .says")).to_have_text("Live")
            _show(tab, is_shown=False)
        _show(tabs[0], is_shown=True)
        expect(tabs[0].locator("#live .says")).to_have_text("Live")
        process.kill()
        for page in (worklist, tabs[0]):
            expect(page.locator("#live .says")).to_have_text("Connecting")
        with node.database.writing() as session:
            record(session, "exam_superseded", exam)
        add_exam(node)
        process.start("page")
        expect(tabs[0].locator("#stale")).to_be_visible(timeout=20_000)
        expect(worklist.locator("tr.exam")).to_have_count(2, timeout=20_000)
        expect(tabs[1].locator("#stale")).to_be_hidden()
        _show(tabs[1], is_shown=True)
        expect(tabs[1].locator("#stale")).to_be_visible()

        with node.database.writing() as session:
            session.execute(delete(WebSessionRow))
        for page in (worklist, tabs[0]):
            page.wait_for_url(re.compile("/login"), timeout=20_000)
            expect(page.locator("body")).not_to_contain_text("P1")


def _give_reading(node: Node, taken_from: str, given_to: str) -> None:
    """Let the one exam be on its way, and the other be read."""
    with node.database.writing() as session:
        session.execute(
            update(PredictionRow).where(PredictionRow.exam_id == taken_from).values(exam_id=given_to)
        )
        session.get_one(ExamRow, taken_from).state = "reading"
        session.get_one(ExamRow, given_to).state = "read"
        record(session, "exam_read", given_to)


def _show(page: Page, *, is_shown: bool) -> None:
    """Put a tab into the background or bring it back; without a window all are in the foreground."""
    hidden = "false" if is_shown else "true"
    page.evaluate(f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier(
    node: NodeProcess, studies: Studies, chromium: Browser, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """By axe, and nothing is wider than the window: at 1280, on a tablet, and at 200 % of 1280."""
    paths = studies.write("1.2.826.0.9.3", studies.of("uc"), patient_id="P-1")
    assert dcmsend(node.port, paths).returncode == 0
    with chromium.new_context(color_scheme=scheme) as context:
        page = log_in(context, node, "adam")
        row = page.locator("tr.exam", has_text="P-1").filter(has_text="IBD pattern found")
        expect(row).to_have_count(1, timeout=READ_WITHIN_MS)
        expect(page.locator("tr.exam")).to_have_count(5)
        exams = {
            link.inner_text().split("\n")[0]: link.get_attribute("href") or ""
            for link in page.locator("a.opens").all()
        }
        assert len(exams) == 5
        addresses = [
            "/",
            "/?reading=unpredicted&state=failed",
            "/?sort=none",
            "/users",
            "/quality",
            "/absent",
            *exams.values(),
        ]
        for number, address in enumerate(addresses):
            page.goto(f"http://127.0.0.1:{node.http_port}{address}")
            if page.locator("#viewer").count():
                expect(page.locator("#large")).to_have_attribute(
                    "src", _ends("frame"), timeout=PICTURED_WITHIN_MS
                )
            for width, height in ((1280, 900), (820, 1180), (640, 450)):
                page.set_viewport_size({"width": width, "height": height})
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (address, width)
                page.screenshot(path=tmp_path / f"{number}-{scheme}-{width}.png", full_page=True)
                found = Axe().run(page).response["violations"] if width != 820 else []
                assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == [], (
                    address
                )
            page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{node.http_port}/")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        assert Axe().run(page).response["violations"] == []


def _ends(layer: str) -> re.Pattern[str]:
    return re.compile(rf"{layer}\.png$")
