"""One browser and one page for all tests of a run; a new tab, and so a new conversation, for every test."""

import pytest

from tests.web.tiny_site import PATIENCE_S, Site, TinyMaker, find_browser


@pytest.fixture(scope="session")
def maker() -> TinyMaker:
    return TinyMaker()


@pytest.fixture(scope="session")
def browser():
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]  # root has no sandbox
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site(maker):
    with Site(maker).served() as served:
        yield served


@pytest.fixture
def tab(site, browser):
    """The page, open; whatever it asks of other addresses is written down."""
    site.thread.hold_behind = None
    site.thread.go_on.clear()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_S * 1000)
    page.foreign = []
    own = (site.url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else page.foreign.append(request.url))
    page.goto(site.url)
    page.wait_for_selector("#message textarea")
    yield page
    site.thread.go_on.set()
    page.close()
