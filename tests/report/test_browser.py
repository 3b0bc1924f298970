"""The report in a real browser: it sorts, filters, escapes, and asks nobody for anything."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selector.report.html import write_report
from selector.report.ranking import Ranking
from tests.report import samples
from tests.report.browser import MISSING, browser, requests

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(driver: Any, ranking: Ranking, folder: Path) -> None:
    driver.get_log("browser")
    driver.get(write_report(ranking, folder / "report.html").as_uri())


def names(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#table tbody tr')].filter(r => r.offsetParent).map(r => r.cells[1].textContent)"
    return list(driver.execute_script(script))


def head(driver: Any, title: str) -> Any:
    for cell in driver.find_elements("css selector", "#table thead tr:last-child th"):
        if cell.text.startswith(title):
            return cell
    raise AssertionError(f"no column {title}")


def click(driver: Any, title: str) -> str:
    cell = head(driver, title)
    cell.find_element("tag name", "button").click()
    return str(cell.get_attribute("aria-sort"))


def test_sorting_by_a_click_and_by_the_keyboard(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.ranking(), tmp_path)
    in_rank_order = [f"timm:network_{i}.in1k" for i in range(5)]
    assert (names(driver), click(driver, "transferability")) == (in_rank_order, "descending")
    assert (names(driver), click(driver, "transferability")) == (in_rank_order, "ascending")
    # the failed model has no transferability and stays last in both directions
    assert names(driver) == [*reversed(in_rank_order[:4]), in_rank_order[4]]
    head(driver, "params").find_element("tag name", "button").send_keys("\ue007")  # Enter
    assert names(driver)[0] == "timm:network_3.in1k"
    assert head(driver, "transferability").get_attribute("aria-sort") is None
    assert (click(driver, "#"), names(driver)) == ("ascending", in_rank_order)


def test_numbers_sort_as_numbers(driver: Any, tmp_path: Path) -> None:
    models = tuple(
        samples.model(i, num_parameters=count) for i, count in enumerate((9_000_000, 100_000_000, 25_000_000))
    )
    show(driver, samples.ranking(models), tmp_path)
    click(driver, "params")
    assert names(driver) == ["timm:network_1.in1k", "timm:network_2.in1k", "timm:network_0.in1k"]


def test_filter(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.ranking(), tmp_path)
    field = driver.find_element("id", "filter")
    field.send_keys("NETWORK_2")
    assert names(driver) == ["timm:network_2.in1k"]
    assert driver.find_element("id", "shown").text == "1 of 5 models"
    field.clear()
    field.send_keys("failed")
    assert names(driver) == ["timm:network_4.in1k"]
    field.send_keys("\ue00c")  # Escape
    assert len(names(driver)) == 5
    driver.find_element("tag name", "body").click()
    driver.find_element("tag name", "body").send_keys("/")
    assert driver.switch_to.active_element.get_attribute("id") == "filter"


def test_a_long_table_begins_with_fifty_rows(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.ranking(tuple(samples.model(i, num_parameters=1000 - i) for i in range(60))), tmp_path)
    assert names(driver) == [f"timm:network_{i}.in1k" for i in range(50)]
    assert driver.find_element("id", "shown").text == "60 models"
    click(driver, "params")  # the largest first, then the smallest
    click(driver, "params")
    assert (names(driver)[0], len(names(driver))) == ("timm:network_59.in1k", 50)
    field = driver.find_element("id", "filter")
    field.send_keys("network_5")  # finds rows that are not shown as well
    assert len(names(driver)) == 11
    field.send_keys("\ue00c")
    button = driver.find_element("id", "all")
    assert button.text == "Show all 60"
    button.click()
    assert len(names(driver)) == 60
    assert not button.is_displayed()


@pytest.mark.parametrize(
    "make", [samples.ranking, samples.unmeasured, samples.examined, samples.hostile, samples.costed]
)
def test_no_console_message_and_no_request(driver: Any, tmp_path: Path, make: Any) -> None:
    requests(driver)
    show(driver, make(), tmp_path)
    assert (driver.get_log("browser"), requests(driver)) == ([], [])


def test_the_policy_stops_what_escaping_would_miss(driver: Any, tmp_path: Path) -> None:
    """The test of the test: with the escaping broken by hand the browser itself refuses."""
    path = write_report(samples.ranking(), tmp_path / "report.html")
    attack = "<script>document.title='owned'</script><img src='https://example.invalid/x.png'>"
    path.write_text(path.read_text().replace("<main>", f"<main>{attack}"))
    requests(driver)
    driver.get_log("browser")
    driver.get(path.as_uri())
    assert driver.title.startswith("photos")
    told = " ".join(entry["message"] for entry in driver.get_log("browser"))
    assert "Content Security Policy" in told


def test_hostile_names_are_text(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.hostile(), tmp_path)
    assert "owned'" in driver.title  # as text
    assert driver.title != "owned"
    assert names(driver)[0].startswith("</script><script>")
    pictures = driver.execute_script("return [...document.images].map(i => i.src)")
    assert pictures
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert driver.execute_script("return document.scripts.length") == 1
    assert "</script>" in driver.find_element("css selector", ".samples span").text


def test_the_outcome_of_the_best_model(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.examined(), tmp_path)
    script = (
        "return [...document.querySelectorAll('.confusion tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert driver.execute_script(script) == [
        ["good", "100", "0.900", "0.989", "0.942", "90", "5", "5"],
        ["hole", "50", "0.800", "0.851", "0.825", "1", "40", "9"],
        ["stain", "50", "0.960", "0.774", "0.857", "0", "2", "48"],
    ]
    wrong, unsure = driver.find_elements("css selector", ".samples")
    assert [item.text.replace("\u00a0", " ").splitlines() for item in wrong.find_elements("tag name", "li")] == [
        ["a.jpg", "is good", "taken for hole (97%)"],
        ["b.jpg", "is stain", "taken for hole (61%)"],
    ]
    assert unsure.text.replace("\u00a0", " ").splitlines() == ["c.jpg", "is stain (35%)"]
    # drawn, although the policy lets nothing in from outside
    assert driver.execute_script("return [...document.images].map(i => i.naturalWidth)") == [1, 1]
    assert driver.execute_script("return document.images[0].alt") == "a.jpg"


def test_failures_unfold(driver: Any, tmp_path: Path) -> None:
    show(driver, samples.ranking(), tmp_path)
    trace = driver.find_element("css selector", ".failure pre")
    assert not trace.is_displayed()
    driver.find_element("css selector", ".failure summary").click()
    assert "WeightsMissing" in trace.text


def test_five_hundred_models_open_quickly(driver: Any, tmp_path: Path) -> None:
    path = write_report(samples.large(500), tmp_path / "report.html")
    started = time.perf_counter()
    driver.get(path.as_uri())
    opened = driver.execute_script("const t = performance.getEntriesByType('navigation')[0]; return t.domComplete")
    assert len(names(driver)) == 50
    driver.find_element("id", "all").click()
    assert len(names(driver)) == 500
    assert opened < 3000, opened  # milliseconds; a second on an idle machine, with room for a busy one
    click(driver, "transferability")
    assert time.perf_counter() - started < 20


def test_dark_theme(tmp_path: Path) -> None:
    with browser(tmp_path / "profile", dark=True) as driver:
        show(driver, samples.ranking(), tmp_path)
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in background.strip("rgb()").split(",")) < 64


def test_a_table_that_scrolls_says_so_until_its_end(driver: Any, tmp_path: Path) -> None:
    driver.set_window_size(700, 900)
    try:
        show(driver, samples.costed(), tmp_path)
        box = "document.querySelector('.scroll')"
        assert driver.execute_script(f"return {box}.classList.contains('more-right')")
        assert driver.find_element("id", "more-columns").is_displayed()
        driver.execute_script(f"{box}.scrollLeft = {box}.scrollWidth")
        wait_for(driver, f"return !{box}.classList.contains('more-right') && {box}.classList.contains('more-left')")
    finally:
        driver.set_window_size(1400, 1200)


def test_no_hole_beside_a_lonely_card(driver: Any, tmp_path: Path) -> None:
    """What stands alone in a row takes the row."""
    show(driver, samples.costed(), tmp_path)
    wide = "document.querySelector('main').getBoundingClientRect().right"
    ends = driver.execute_script(
        "return [...document.querySelectorAll('.figures > figure')].map(f => [f.getBoundingClientRect().top, f.getBoundingClientRect().right])"
    )
    rows: dict[float, float] = {}
    for top, right in ends:
        rows[round(top)] = max(right, rows.get(round(top), 0.0))
    edge = driver.execute_script(f"return {wide}")
    assert len(rows) > 1
    assert all(abs(right - edge) < 2 for right in rows.values())


def wait_for(driver: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda d: d.execute_script(script))
