"""A table of labelled frames is read as it is meant, or refused in one line; no split leaks."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dataset import Dataset, DatasetError, LabelledFrame, choose_folds, load_dataset, refuse_leaks
from tests.painted_dataset import write_rows

HEADER = ("patient", "label", "path", "group", "fold")
ROWS = [
    ("A", "healthy", "a.jpg", "g1", "0"),
    ("B", "ibd", "b.jpg", "g2", "1"),
    ("B", "ibd", "c.jpg", "g2", "1"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def load(
    root: Path, *rows: tuple[str, ...], header: tuple[str, ...] = HEADER, **told: dict[str, str]
) -> Dataset:
    return load_dataset(write_rows(root / "table.csv", [header, *(rows or ROWS)]), root, **told)


def test_a_plain_table_is_read_as_it_stands(root: Path) -> None:
    frames = load(root).frames
    assert [(f.patient, f.label, f.path, f.group, f.fold, f.site) for f in frames] == [
        (*r, None) for r in ROWS
    ]
    assert frames[0].sha256 == hashlib.sha256(b"a.jpg").hexdigest()


def test_columns_and_labels_of_another_form_are_told(root: Path) -> None:
    rows = [("normal", "A", "a.jpg", "x"), ("uc", "B", "b.jpg", "y")]
    found = load(
        root, *rows, header=("finding", "who", "path", "group"),
        columns={"patient": "who", "label": "finding"}, labels={"normal": "healthy", "uc": "ibd"},
    )  # fmt: skip
    assert [(f.patient, f.label, f.fold) for f in found.frames] == [
        ("A", "healthy", None),
        ("B", "ibd", None),
    ]


def test_pseudo_patients_are_known_by_their_columns(root: Path) -> None:
    header = (
        "pseudo_patient_id",
        "label",
        "class",
        "path",
        "near_duplicate_group",
        "official_fold",
        "cv_fold",
    )
    (frame,) = load(root, ("P1", "uc", "grade-2", "a.jpg", "g", "0", "4"), header=header).frames
    assert (frame.patient, frame.label, frame.kind, frame.group, frame.fold) == (
        "P1",
        "ibd",
        "grade-2",
        "g",
        "4",
    )


@pytest.mark.data
def test_the_real_table_runs_unmodified_and_does_not_leak(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "pseudo_patients.csv", data_dir)
    assert len(dataset.frames) == 1089
    assert len({frame.patient for frame in dataset.frames}) == 74
    assert np.bincount(choose_folds(dataset.frames)).tolist() == [
        sum(frame.fold == str(fold) for frame in dataset.frames) for fold in range(5)
    ]


def test_the_digest_follows_every_value_and_every_byte(root: Path) -> None:
    """It names what a figure was measured on: a file swapped under the same name is other data."""
    first = load(root).digest
    assert load(root).digest == first
    relabelled = load(root, ("A", "ibd", *ROWS[0][2:]), *ROWS[1:]).digest
    (root / "c.jpg").write_bytes(b"other")
    assert len({first, relabelled, load(root).digest}) == 3


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([("A", "colitis", "a.jpg", "g", "0")], HEADER, "line 2: label: healthy, ibd were .*, 'colitis'"),
        ([("A", "ibd", "a.jpg", "g")], HEADER, "line 2: fold: a value was expected"),
        ([("", "ibd", "a.jpg", "g", "0")], HEADER, "line 2: patient: a value was expected"),
        ([("A", "ibd", "no.jpg", "g", "0")], HEADER, r"line 2: .*no\.jpg: a file was expected"),
        ([("A", "ibd", "../a.jpg", "g", "0")], HEADER, r"a path below the root was expected, '\.\./a\.jpg'"),
        ([("A", "ibd", "/etc/passwd", "g", "0")], HEADER, "a path below the root was expected"),
        ([ROWS[0], ROWS[0]], HEADER, "line 3: another file was expected, that of line 2"),
        ([("A", "ibd", "a.jpg")], HEADER[:3], "column 'group' was expected, patient, label, path"),
        ([("A", "healthy", "a.jpg", "g", "0"), ("A", "healthy", "b.jpg", "h", "1")], HEADER,
         "lines 2 and 3 of the table are of one patient, but in folds 0 and 1"),
        ([("A", "healthy", "a.jpg", "g", "0"), ("B", "healthy", "b.jpg", "g", "1")], HEADER,
         "lines 2 and 3 of the table are of one near-duplicate group, but in folds 0 and 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_stands(
    root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        load(root, *rows, header=header)


@pytest.mark.parametrize("content", [b"", b"patient,label,path,group\n", b"\xff\xfe\x00", None])
def test_a_table_that_is_none_is_one_error(root: Path, content: bytes | None) -> None:
    table = root / "table.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(DatasetError, match=r"table\.csv: .* expected"):
        load_dataset(table, root)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"columns": {"colour": "label"}}, "--columns: .* was expected, 'colour' was found"),
        ({"columns": {"group": "scene"}}, "a column 'scene' was expected, .*; say --columns group="),
        ({"labels": {"uc": "colitis"}}, "--labels: .*healthy, ibd was expected, 'colitis' was found"),
    ],
)
def test_a_wrong_mapping_is_refused(root: Path, told: dict[str, dict[str, str]], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        load_dataset(write_rows(root / "table.csv", [HEADER, *ROWS]), root, **told)


def frame(number: int, patient: int, group: int, *, is_ibd: bool = False, sha256: str = "") -> LabelledFrame:
    return LabelledFrame(
        f"P{patient}", "ibd" if is_ibd else "healthy", f"{number}.jpg", f"g{group}", sha256 or str(number)
    )


def test_one_file_under_two_names_may_not_stand_on_both_sides() -> None:
    twins = [frame(0, 0, 0, sha256="same"), frame(1, 1, 1, sha256="same")]
    refuse_leaks(twins, [0, 0])
    with pytest.raises(DatasetError, match=r"lines 2 and 3 .* of one very same file, but in folds 0 and 1"):
        refuse_leaks(twins, [0, 1])


def count_unrelated(pairs: list[tuple[int, int]]) -> int:
    """Merge what shares a patient or a group until nothing does: slow, and plainly right."""
    sets = [({patient}, {group}) for patient, group in pairs]
    for _ in pairs:
        merged: list[tuple[set[int], set[int]]] = []
        for patients, groups in sets:
            touching = [each for each in merged if each[0] & patients or each[1] & groups]
            merged = [each for each in merged if each not in touching]
            merged.append(
                (patients.union(*(t[0] for t in touching)), groups.union(*(t[1] for t in touching)))
            )
        sets = merged
    return len(sets)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 20)), min_size=1, max_size=40), st.integers(0, 3)
)
def test_dealt_folds_never_leak_and_are_dealt_alike_each_time(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    """A patient ties its groups together and a group its patients: the chain must not be cut anywhere."""
    frames = [frame(number, *pair, is_ibd=bool(pair[0] % 2)) for number, pair in enumerate(pairs)]
    unrelated = count_unrelated(pairs)
    if unrelated < 3:
        with pytest.raises(DatasetError, match=f"{unrelated} found"):
            choose_folds(frames, count=3, seed=seed)
        return
    folds = choose_folds(frames, count=3, seed=seed)
    refuse_leaks(frames, folds.tolist())
    assert set(folds) == {0, 1, 2}
    assert (choose_folds(frames, count=3, seed=seed) == folds).all()


@given(st.lists(st.integers(1, 20), min_size=20, max_size=40), st.integers(0, 3))
def test_dealt_folds_hold_each_label_evenly(sizes: list[int], seed: int) -> None:
    """No two folds differ, in a label's frames, by more than its largest patient."""
    patients = [patient for patient, size in enumerate(sizes) for _ in range(size)]
    frames = [frame(n, p, p, is_ibd=bool(p % 2)) for n, p in enumerate(patients)]
    folds = choose_folds(frames, seed=seed)
    for label, largest in (("healthy", max(sizes[::2])), ("ibd", max(sizes[1::2]))):
        held = [
            sum(f.label == label and at == fold for f, at in zip(frames, folds, strict=True))
            for fold in range(5)
        ]
        assert max(held) - min(held) <= largest


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(DatasetError, match="5 folds: as many unrelated patients were expected, 2 found"):
        choose_folds([frame(0, 0, 0), frame(1, 1, 1)])
