"""scripts/pictures: terminals are recorded as they looked, every policy is drawn, a report's figures are found."""

import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kinds_of_sweeps import KINDS
from onecycle_sweeps import report

pytest.importorskip("pyte", reason="no pyte: the extra `test` has it")
pytest.importorskip("playwright.sync_api", reason="no playwright: the extra `test` has it")

from illustrations import __main__ as script
from illustrations import policy_drawings, recording, screenshots

SVG = "{http://www.w3.org/2000/svg}"
# A line that is overwritten, as a progress bar does it, and two colours.
SHELL = r"printf 'half'; sleep 0.1; printf '\r\033[K\033[32mwhole & <done>\033[0m\n\033[1mbold\033[0m plain\n'"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> recording.Recording:
    return recording.record(["sh", "-c", SHELL], "sh done.sh", tmp_path_factory.mktemp("recorded"), os.environ)


def test_a_recording_ends_with_what_was_left_on_the_screen(recorded: recording.Recording):
    assert recorded.text == "$ sh done.sh\nwhole & <done>\nbold plain\n"
    assert any(("half", "default", False) in row for _, rows in recorded.screens for row in rows)


def test_its_svg_shows_one_screen_after_the_other_in_their_colours(recorded: recording.Recording):
    drawn = ElementTree.fromstring(recording.svg(recorded))
    screens = [["".join(text.itertext()) for text in group.iter(f"{SVG}text")] for group in drawn.iter(f"{SVG}g")]
    assert screens[0] == ["$ sh done.sh"] and screens[-1] == ["$ sh done.sh", "whole & <done>", "boldplain"]
    looks = {piece.text: piece.attrib for piece in drawn.iter(f"{SVG}tspan")}
    assert looks["whole & <done>"]["fill"] == recording.COLOURS["green"] and looks["bold"]["class"] == "b"
    assert float(looks["plain"]["x"]) == pytest.approx(recording.MARGIN + 5 * recording.WIDTH, abs=0.1)


def test_a_command_that_fails_is_not_recorded(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"status 3:\n\$ sh\ngone"):
        recording.record(["sh", "-c", "echo gone; exit 3"], "sh", tmp_path, os.environ)


@pytest.mark.slow
@pytest.mark.parametrize("name", policy_drawings.POLICIES)
def test_each_policy_can_be_drawn_over_a_run(name: str):
    policy = policy_drawings.made(name)
    assert policy.total_steps == policy_drawings.EPOCHS * policy_drawings.STEPS_PER_EPOCH
    assert 0 < max(policy(step).lr for step in range(policy.total_steps)) <= 1


def test_a_drawing_of_a_policy_is_a_small_picture(tmp_path: Path):
    policy_drawings.draw("onecycle", tmp_path / "policy.png")
    assert 1_000 < (tmp_path / "policy.png").stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["default", "rates"])
def test_the_pictures_of_a_report_are_found_on_its_page(kind: str, tmp_path: Path):
    pictures = {"default": script.OF_THE_COMPARISON, "rates": script.OF_THE_RATES}[kind]
    if not shutil.which("chromium"):
        pytest.skip("no chromium: apt-get install chromium")
    page = report.write(report.compare(KINDS[kind](tmp_path)))[0]
    # The made sweep has no probe.
    wanted = {name: selectors for name, selectors in pictures.items() if name != "short_trainings"}
    with screenshots.browser() as found:
        screenshots.report(found, page, tmp_path, wanted)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(wanted)
