import dataclasses
import datetime as dt

import numpy as np
import pytest
from PIL import ImageDraw

from node.results.identity import tells_who_or_when
from node.results.page import draw_pages
from node.results.report import Report
from node.results.words import CAUTIONARY, READINGS, REASONS
from tests.unit.node.results.conftest import make_panel, make_report, make_template


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect every string that is drawn; it is drawn all the same."""
    strings: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def text(pen: ImageDraw.ImageDraw, place: tuple[float, float], string: str, **style: object) -> None:
        strings.append(string)
        draw(pen, place, string, **style)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return strings


def test_there_is_a_summary_and_a_page_for_each_frame_all_of_one_size(report: Report) -> None:
    """Frames of one multi-frame object share Rows and Columns (PS3.3 C.7.6.6)."""
    pages = draw_pages(report)
    assert len(pages) == 1 + len(report.evidence)
    assert {(page.shape, page.dtype) for page in pages} == {((960, 1280, 3), np.dtype(np.uint8))}


def test_every_page_says_what_it_is_not_and_which_revision_it_is(report: Report, written: list[str]) -> None:
    """One page of a result may be all that somebody is shown."""
    count = len(draw_pages(report))
    assert written.count(CAUTIONARY) == count
    revision = f"Revision {report.revision}"
    if report.supersedes:
        revision += f", replaces revision {report.supersedes}"
    assert written.count(revision) == count


def test_no_machine_value_is_shown_to_a_person(report: Report, written: list[str]) -> None:
    """`healthy` says more than the model knows; underscores are not words."""
    draw_pages(report)
    text = " ".join(written)
    assert READINGS[report.reading] in text
    assert "healthy" not in text.lower()
    assert "_" not in text


def test_an_unpredicted_result_gives_its_reason_in_words(written: list[str]) -> None:
    """An abstention without a reason cannot be acted on; a reason nobody foresaw is still shown."""
    for reason in (*REASONS, "something_new"):
        draw_pages(
            make_report(reading="unpredicted", unpredicted_reason=reason, probability=None, evidence=())
        )
        assert REASONS.get(reason, "Something new.") in written


def test_what_limits_the_reading_is_said(written: list[str]) -> None:
    """Missing images, unreadable objects and an unstated body part change what a reading is worth."""
    draw_pages(
        make_report(
            completeness_verdict="incomplete", missing_count=1, objects_unreadable=1, body_part_stated=False
        )
    )
    assert "Incomplete: 1 image the PACS holds did not arrive." in written
    assert "1 object could not be decoded and played no part." in written
    assert "Body part not stated; lower GI is assumed." in written


def test_a_frame_that_did_not_vote_is_labelled(written: list[str]) -> None:
    """Or it would pass for evidence."""
    draw_pages(make_report(evidence=(make_panel(voted=False),)))
    assert "below threshold, did not vote" in written
    assert "voted" not in written


def test_how_many_frames_are_foreign_is_said_and_nothing_where_none_is(written: list[str]) -> None:
    """An abstention for the frames' kind asks for another exam, not for a better view of the same."""
    draw_pages(make_report(frames_foreign=3))
    assert "3 of 15 frames unlike those learnt from: without a vote." in written
    written.clear()
    draw_pages(make_report())
    assert not [line for line in written if "unlike" in line]


def test_a_frame_that_rests_on_filled_pixels_says_so(written: list[str]) -> None:
    """It reached the threshold: without the reason its reader would look for another."""
    panel = make_panel(voted=False, reason="rests_on_filled", synthetic_share=0.406)
    draw_pages(make_report(evidence=(panel, make_panel(voted=False))))
    assert "rests on filled pixels, did not vote" in written
    assert "41 % of the activation lies on filled pixels" in written
    assert "Most confident frames: none voted" in written
    draw_pages(make_report(evidence=(make_panel(voted=False, reason="anything_else"),)))
    assert "anything else, did not vote" in written


@pytest.mark.parametrize(("share", "is_told"), [(None, False), (0.01, False), (0.02, True)])
def test_filled_pixels_are_told_of_only_where_they_matter(
    share: float | None, written: list[str], *, is_told: bool
) -> None:
    """A line on every page is a line that nobody reads."""
    draw_pages(make_report(evidence=(make_panel(synthetic_share=share),)))
    assert any("filled pixels" in string for string in written) is is_told


def test_a_plate_keeps_its_page_and_names_its_frame(written: list[str]) -> None:
    """The evidence list never changes: whoever wants to see the frame finds it by its number."""
    plate = make_panel(pixels=np.full((96, 120, 3), 44, np.uint8), gate="plate", image_number=3)
    pages = draw_pages(make_report(evidence=(make_panel(), plate)))
    assert len(pages) == 3
    assert "Not shown: text was still found on it" in written
    assert written.count("image 3, frame 1") == 2, "on the summary's strip, and as the source"
    assert "Image 3, frame 1" in written


def test_nothing_that_is_drawn_tells_who_the_patient_is(report: Report, written: list[str]) -> None:
    """BurnedInAnnotation says so; every string on every page is held against a header."""
    draw_pages(report)
    assert not tells_who_or_when(written, make_template(AccessionNumber="ACC-77", PatientID="P-4711"))


def test_a_confidence_below_the_threshold_is_never_rounded_up_to_it(written: list[str]) -> None:
    """0.92996 shown as 0.930 beside t = 0.93 and "did not vote" is a contradiction."""
    draw_pages(make_report(evidence=(make_panel(voted=False, confidence=0.92996),)))
    assert "0.929  (t = 0.93)" in written


def test_no_certainty_is_shown_that_was_not_computed(written: list[str]) -> None:
    """1.00 reads as certain."""
    draw_pages(make_report(probability=0.9999))
    assert "Probability of IBD > 0.99, a calibrated estimate" in written


def test_the_plain_frame_stands_unaltered_on_its_page() -> None:
    """The original pixels are what a person judges by; here they fit without scaling."""
    frame = np.random.default_rng(0).integers(0, 256, (540, 400, 3), dtype=np.uint8)
    _, page = draw_pages(make_report(evidence=(make_panel(pixels=frame),)))
    left = 56 + (572 - 400) // 2
    assert np.array_equal(page[168 : 168 + 540, left : left + 400], frame)


def test_text_too_wide_for_its_place_is_cut_visibly(written: list[str]) -> None:
    """A long model name may not run into the column beside it."""
    draw_pages(make_report(model_name="n" * 64))
    assert any(string.startswith("nnn") and string.endswith("...") for string in written)


def test_pages_depend_on_the_report_alone() -> None:
    """The time of making is nowhere drawn; the same report gives the same pixels."""
    early, late = make_report(), make_report(created_at=dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
    assert all(map(np.array_equal, draw_pages(early), draw_pages(late)))


def test_a_report_refuses_what_has_no_words() -> None:
    """An unknown reading would be drawn as a crash, a naive time as another hour."""
    with pytest.raises(ValueError, match="reading"):
        dataclasses.replace(make_report(), reading="ill")
    with pytest.raises(ValueError, match="timezone-aware"):
        dataclasses.replace(make_report(), created_at=dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the point
    with pytest.raises(ValueError, match="view_box"):
        make_panel(view_box=(0, 0, 500, 10))
    with pytest.raises(ValueError, match="cam"):
        make_panel(cam=np.zeros((1, 7, 7), dtype=np.float32))
