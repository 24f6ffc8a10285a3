"""The admin page in a browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from happy_light.admin.backup_archive import read_archive
from happy_light.admin.progress import ignore_progress
from tests.client import World
from tests.commands import ok
from tests.conftest import Process

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
PHONE = {"width": 390, "height": 844}
WAIT = 20_000  # ms


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing")
        pytest.skip("chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """Return a page with a fresh profile. It fails the test if a script of the page fails."""
    context = await browser.new_context(accept_downloads=True)
    page = await context.new_page()
    page.set_default_timeout(WAIT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    await context.close()
    assert errors == []


@pytest_asyncio.fixture(loop_scope="module")
async def own(process: Process) -> AsyncIterator[World]:
    """Accounts against the server of the test, on the event loop of the browser."""
    async with World(process.url) as world:
        yield world


async def open_page(page: Page, process: Process) -> None:
    """Open the link that the command prints."""
    link = (await ok(process.folder, "admin"))["urls"][0]
    await page.goto(link)
    await expect(page.locator("#live-text")).to_have_text("Live", timeout=WAIT)
    # Chromium drops keys and clicks until it has drawn a page for the first time.
    await page.evaluate("addEventListener('keydown', () => { window.takesKeys = true; }, { once: true })")
    while not await page.evaluate("window.takesKeys === true"):
        await page.keyboard.press("Shift")


async def test_an_operator_sees_a_client_appear_and_signs_it_out(page: Page, process: Process, own: World) -> None:
    alice = await own.account()
    await open_page(page, process)
    assert page.url == f"{process.url}/admin"  # without the code
    connected = page.locator("#tiles .tile").filter(has_text="Accounts connected").locator(".value")
    sockets = page.locator(f"#sockets-{alice.id}")
    await expect(connected).to_have_text("0")
    await expect(sockets).to_have_text("")

    bob = await own.account()  # the list follows
    await expect(page.locator(f"#account-{bob.id}")).to_be_visible(timeout=WAIT)
    socket = await alice.socket()
    await expect(connected).to_have_text("1", timeout=WAIT)
    await expect(sockets).to_have_text("connected, 1 socket")

    await page.click(f"#open-{alice.id}")
    await page.fill(f"#label-{alice.id}", "Mum's phone")
    await page.press(f"#label-{alice.id}", "Enter")
    await expect(page.locator(f"#open-{alice.id} .who")).to_have_text("Mum's phone")

    phone = await own.account(alice.key)  # a second device appears, and is signed out alone
    there = await phone.socket()
    devices = page.locator(f"#details-{alice.id} li")
    await expect(devices).to_have_count(2, timeout=WAIT)
    device = page.locator(f"#device-{phone.claims['jti']}")
    await expect(device).to_contain_text("connected, 1 socket", timeout=WAIT)
    await device.get_by_role("button").click()
    await there.dropped.wait()
    await expect(device).to_have_count(0, timeout=WAIT)
    await expect(devices).to_have_count(1)
    assert (await phone.get("/v1/account/profile")).status_code == 401
    assert (await alice.get("/v1/account/profile")).status_code == 200

    await page.get_by_role("button", name="Sign out everywhere").click()
    await page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    await socket.dropped.wait()
    await expect(connected).to_have_text("0", timeout=WAIT)
    await expect(sockets).to_have_text("")
    assert (await alice.get("/v1/account/profile")).status_code == 401
    operator = re.search(r"operator (\S+) on the page, from 127.0.0.1: POST /admin/api/accounts", "".join(process.log))
    assert operator is not None and operator[1] != "unknown"


async def test_a_deletion_has_to_be_typed(page: Page, process: Process, own: World) -> None:
    alice = await own.account()
    await open_page(page, process)
    await page.click(f"#open-{alice.id}")
    await page.get_by_role("button", name="Delete account").click()
    sure = page.get_by_role("dialog").get_by_role("button", name="Delete")
    await expect(sure).to_be_disabled()
    await page.fill("#confirm-input", await page.inner_text("#confirm-word"))
    await sure.click()
    await expect(page.locator(f"#account-{alice.id}")).to_have_count(0, timeout=WAIT)
    assert (await alice.get("/v1/account/profile")).status_code == 401


async def test_an_operator_makes_a_backup_and_downloads_it(
    page: Page, process: Process, own: World, tmp_path: Path
) -> None:
    await own.account()
    await open_page(page, process)
    await page.get_by_role("button", name="Back up now").click()
    link = page.get_by_role("link", name="Download the backup")
    await expect(link).to_be_visible(timeout=WAIT)
    async with page.expect_download() as started:
        await link.click()
    archive = tmp_path / "downloaded.tar.gz"
    await (await started.value).save_as(archive)
    manifest = read_archive(archive, ignore_progress)
    assert manifest.secret and "database.sqlite" in {entry.path for entry in manifest.entries}


async def test_prune_counts_first_and_the_rest_is_shown(page: Page, process: Process) -> None:
    leftover = process.folder / "attachments" / "sessions" / "gone"
    leftover.mkdir(parents=True)
    (leftover / "x.enc").write_text("x" * 2048)
    for path in (leftover / "x.enc", leftover):
        os.utime(path, (1, 1))
    await open_page(page, process)
    await page.get_by_role("button", name="Count first").click()
    counts = page.locator("#prune-counts")
    await expect(counts).to_contain_text("2.0 KiB")
    assert leftover.exists()
    await page.get_by_role("button", name="Delete these").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.locator("#said")).to_contain_text("Deleted.")
    assert not leftover.exists()
    await page.get_by_role("button", name="Show the last lines").click()
    await expect(page.locator("#log-lines")).to_contain_text("POST /admin/api/prune")
    await page.get_by_role("button", name="Show the settings").click()
    await expect(page.locator("#settings-rows")).to_contain_text("HANDY_MASTER_SECRET")
    await expect(page.locator("#settings-rows")).not_to_contain_text("test-secret")


async def test_registration_is_closed_and_opened(page: Page, process: Process, own: World) -> None:
    await open_page(page, process)
    await page.select_option("#registration-mode", "closed")
    await page.get_by_role("button", name="Set", exact=True).click()
    await expect(page.locator("#registration-text")).to_contain_text(
        "Nobody may create an account. The setting says open"
    )
    with pytest.raises(AssertionError):
        await own.account()
    await page.get_by_role("button", name="Open for 10 minutes").click()
    await expect(page.locator("#registration-text")).to_contain_text("Open for everybody until")
    await own.account()


async def test_signing_out_ends_the_page_everywhere(page: Page, process: Process) -> None:
    await open_page(page, process)
    other = await page.context.new_page()
    await other.goto(f"{process.url}/admin")
    await expect(other.locator("#live-text")).to_have_text("Live", timeout=WAIT)
    await page.get_by_role("button", name="Sign out").first.click()
    await expect(page.locator("#sign-in")).to_contain_text("You are signed out.")
    await expect(other.locator("#sign-in")).to_be_visible(timeout=WAIT)  # its event stream has ended
    assert await page.context.cookies() == []


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the script of axe-core, from npm."""
    if shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing")
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    shutil.copy(Path(__file__).parent / "js" / "package.json", folder)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True, capture_output=True
    )
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_used_by_everybody(page: Page, process: Process, own: World, axe: str, scheme: str) -> None:
    """axe-core finds nothing serious on a phone, and nothing is wider than its screen."""
    alice = await own.account()
    await alice.socket()
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})

    async def look() -> None:
        found = await page.evaluate(f"{axe}; axe.run()")
        problems = [
            (each["id"], each["nodes"][0]["html"]) for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]  # fmt: skip
        assert problems == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    await page.goto(f"{process.url}/admin")
    await expect(page.locator("#sign-in")).to_be_visible()
    await look()
    await open_page(page, process)
    await page.click(f"#open-{alice.id}")
    for name in ("Show the last lines", "Show the settings", "Count first", "Look for problems"):
        await page.get_by_role("button", name=name).click()
    await expect(page.locator("#doctor-list li").first).to_be_visible(timeout=2 * WAIT)
    await look()
    await page.get_by_role("button", name="Delete account").click()
    await look()


async def test_the_keyboard_is_enough(page: Page, process: Process, own: World) -> None:
    alice = await own.account()
    await open_page(page, process)
    await page.focus(f"#open-{alice.id}")
    await page.keyboard.press("Enter")
    await expect(page.locator(f"#open-{alice.id}")).to_have_attribute("aria-expanded", "true")
    await page.get_by_role("button", name="Delete account").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#confirm")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#confirm")).to_be_hidden()
    await expect(page.locator(f"#account-{alice.id}")).to_be_visible()


async def test_what_is_typed_and_the_focus_stay_when_a_device_or_an_account_appears(
    page: Page, process: Process, own: World
) -> None:
    alice = await own.account()
    await open_page(page, process)
    await page.click(f"#open-{alice.id}")
    label = page.locator(f"#label-{alice.id}")
    await label.press_sequentially("Mum")
    phone = await own.account(alice.key)
    await phone.socket()
    await expect(page.locator(f"#device-{phone.claims['jti']}")).to_be_visible(timeout=WAIT)
    await expect(label).to_have_value("Mum")
    await expect(label).to_be_focused()
    bob = await own.account()
    await expect(page.locator(f"#account-{bob.id}")).to_be_visible(timeout=WAIT)
    await label.press_sequentially("'s")
    await label.press("Enter")
    await expect(page.locator(f"#open-{alice.id} .who")).to_have_text("Mum's")
    await expect(label).to_be_focused()


async def test_the_focus_stays_where_something_was_pressed(page: Page, process: Process, own: World) -> None:
    alice = await own.account()
    await open_page(page, process)
    await page.focus("#log-load")
    await page.keyboard.press("Enter")
    await expect(page.locator("#log-lines")).to_be_visible()
    await expect(page.locator("#log-load")).to_be_focused()
    await page.click(f"#open-{alice.id}")
    await page.focus(f"#delete-{alice.id}")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.locator(f"#delete-{alice.id}")).to_be_focused()
    device = page.locator(f"#device-{alice.claims['jti']}")
    await device.get_by_role("button").focus()
    await page.keyboard.press("Enter")
    await expect(device).to_have_count(0)
    await expect(page.locator(f"#open-{alice.id}")).to_be_focused()


async def test_a_part_that_cannot_be_loaded_leaves_the_others_usable(page: Page, process: Process) -> None:
    refused = {"status": 503, "json": {"error": "The folder of backups cannot be read"}}
    await page.route("**/admin/api/backups", lambda route: route.fulfill(**refused))
    await open_page(page, process)
    await expect(page.locator("#said")).to_have_text("The folder of backups cannot be read")
    await page.click("#log-load")
    await expect(page.locator("#log-lines")).to_contain_text("signed in to the admin page")


async def test_a_notice_goes_and_an_error_stays(page: Page, process: Process) -> None:
    await page.clock.install()
    await open_page(page, process)
    said = page.locator("#said")
    await page.click("#window-open")
    await expect(said).to_have_text("Registration is open for 10 minutes.")
    await page.clock.fast_forward(10_000)
    await expect(said).to_have_text("")
    await page.fill("#allow-key", "nonsense")
    await page.press("#allow-key", "Enter")
    await expect(said).to_contain_text("This is no public key")
    await page.clock.fast_forward(10_000)
    await expect(said).to_contain_text("This is no public key")
