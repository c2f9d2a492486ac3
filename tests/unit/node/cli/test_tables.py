from typing import Any

import pytest

from node.cli.tables import print_exams, print_quarantined

COUNTS = {
    "received": 42, "expected": 42, "kept": 40, "rejected": 2, "out_of_distribution": 0, "quarantined": 0,
}  # fmt: skip


def exam(**changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "exam_id": "9f3a27c1d0b4", "patient_id": "P1", "issuer_of_patient_id": "", "state": "delivered",
        "revision": 1, "superseded_by": None, "has_conflict": False,
        "counts": COUNTS,
        "completeness": {"verdict": "complete", "reason": "set", "expected": 42, "missing": 0},
        "reading": "ibd", "unpredicted_reason": None, "probability": 0.971, "error": None, "deliveries": [],
        "unreadable": [], "committed": True,
    }  # fmt: skip
    return made | changed


def shown(capsys: pytest.CaptureFixture[str], *exams: dict[str, Any]) -> str:
    print_exams(exams)
    return capsys.readouterr().out


def test_an_exam_is_one_legible_row(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, exam())
    (row,) = [line for line in out.splitlines() if "9f3a27c1d0b4" in line]
    for cell in ("P1", "delivered", "42/42", "40/42", "complete", "IBD pattern", "0.97"):
        assert cell in row
    assert all(len(line) <= 100 for line in out.splitlines())


def test_healthy_is_never_shown_as_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    """The model looks for one pattern: a person must not read "healthy"."""
    out = shown(capsys, exam(reading="healthy", probability=0.03))
    assert "healthy" not in out
    assert "no IBD pattern" in out
    assert "not a diagnosis" in out
    assert "other findings are not assessed" in out


def test_an_unpredicted_exam_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, exam(reading="unpredicted", unpredicted_reason="no_frames", probability=None))
    assert "UNPREDICTED" in out
    assert "no frames" in out


def test_frames_out_of_distribution_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wonders at an abstention sees that the frames, not their confidence, were the reason."""
    counts = {**COUNTS, "out_of_distribution": 3}
    assert "3 of 40 frames are out of distribution" in shown(capsys, exam(counts=counts))
    assert "out of distribution" not in shown(capsys, exam())


def test_a_patient_without_id_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no patient ID" in shown(capsys, exam(patient_id=""))


def test_what_a_terminal_would_obey_is_blanked(capsys: pytest.CaptureFixture[str]) -> None:
    """A Patient ID comes from elsewhere; an escape sequence in it could rewrite the screen."""
    out = shown(capsys, exam(patient_id="A\x1b[2J\rB", error={"step": "read", "text": "x\x1b[0m[bold]y"}))
    assert "\x1b" not in out
    assert "\r" not in out
    assert "[bold]y" in out, "markup is text here, not markup"


def test_remarks_name_the_command_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(
        capsys,
        exam(state="failed", error={"step": "read", "text": "the model is gone"}),
        exam(superseded_by="aaaaaaaaaaaa"),
        exam(has_conflict=True),
        exam(counts={**COUNTS, "received": 1, "expected": None, "kept": 0, "rejected": 0, "quarantined": 3}),
        exam(deliveries=[{"peer": "PACS", "state": "pending", "attempts": 2, "error": "PACS is down"}]),
        exam(deliveries=[{"peer": "PACS", "state": "delivered", "attempts": 2, "error": "old news"}]),
    )
    for said in (
        "failed at read: the model is gone; `endonode retry 9f3a27c1d0b4`",
        "superseded by aaaaaaaaaaaa",
        "its objects contradict each other",
        "3 in quarantine",
        "PACS has not taken the result: PACS is down",
    ):
        assert said in out
    assert "old news" not in out


def test_quarantine_shows_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_quarantined([
        {
            "instance_id": 12, "reason": "other_pixels", "patient_id": "", "sop_instance_uid": "2.25.1",
            "calling_ae_title": "PACS", "contradicts": 3,
        }
    ])  # fmt: skip
    out = capsys.readouterr().out
    for said in ("12", "other pixels", "no patient ID", "2.25.1", "PACS", "quarantine accept N"):
        assert said in out
