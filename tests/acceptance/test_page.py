"""The page in a real browser, on a real node: what a reviewer does in a morning."""

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pydicom import dcmread

from node.roles import Role
from node.serving import open_node
from node.settings import load_settings
from node.users import add_user
from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import NodeProcess, dcmsend, free_port, wait_for
from tests.unit.node.web.conftest import PASSWORD, add_exam

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

USERS: dict[str, Role] = {"anna": "reviewer", "bert": "reviewer", "vera": "viewer", "adam": "administrator"}
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
