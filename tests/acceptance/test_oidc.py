"""Login by an identity provider in a real browser, which withholds strict cookies where others lead."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.acceptance.peers import NodeProcess, free_port, wait_for
from tests.acceptance.test_page import answers
from tests.integration import oidc_provider
from tests.integration.test_oidc import provider

pytestmark = pytest.mark.acceptance


def test_a_browser_logs_in_at_the_provider_and_comes_back_to_where_it_was(
    tmp_path: Path, chromium: Browser
) -> None:
    """The page is on 127.0.0.1 and the provider on localhost: to a browser these are two sites."""
    (tmp_path / "secret").write_text(oidc_provider.SECRET)
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    with provider(tmp_path, f"{at}/login/oidc/end") as issuer, chromium.new_context() as context:
        node = NodeProcess(
            tmp_path / "node", port=free_port(), pacs_port=free_port(), http_port=port,
            extra=f"oidc_issuer = '{issuer}'\noidc_client_id = '{oidc_provider.CLIENT_ID}'\n"
            f"oidc_client_secret_file = '{tmp_path}/secret'\n"
            "oidc_roles = { administrators = 'administrator' }\n",
        )  # fmt: skip
        try:
            node.start()
            wait_for("the page", lambda: answers(node) or None, 30)
            page = context.new_page()
            told: list[str] = []
            page.on("console", lambda said: told.append(said.text))
            page.goto(f"{at}/users")
            assert Axe().run(page).response["violations"] == []
            page.screenshot(path=tmp_path / "login.png")
            page.click("text=Log in through localhost")
            page.fill("[name=username]", "adam")
            page.fill("[name=password]", oidc_provider.PASSWORD)
            page.click("text=Enter")
            expect(page).to_have_url(f"{at}/users")
            expect(page.locator(".who")).to_contain_text("adam administrator")
            expect(page.locator("#live .says")).to_have_text("Live")
            page.click("text=Log out")
            expect(page).to_have_url(f"{at}/login")
            page.goto(f"{at}/users")
            expect(page.locator("h1")).to_have_text("Log in")
            assert [said for said in told if "Content Security Policy" in said] == []
        finally:
            node.kill()
        assert oidc_provider.SECRET not in (tmp_path / "node" / "node.log").read_text()
