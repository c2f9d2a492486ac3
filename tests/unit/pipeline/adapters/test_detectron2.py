"""Detectron2 where it is not installed, and what is made of its answers."""

import hashlib
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.adapters.detectron2 import Detectron2Error, Detectron2Instruments, load_detectron2
from pipeline.errors import PipelineError


class Instances(SimpleNamespace):
    """Stands for Detectron2's own."""

    def to(self, _device: str) -> "Instances":
        """Return itself: it is on the CPU."""
        return self


def test_where_it_is_not_installed_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"pip install --no-build-isolation .*detectron2") as caught:
        load_detectron2(tmp_path / "config.yaml", tmp_path / "model.pth", sha256="0" * 64)
    assert "\n" not in str(caught.value)


def test_an_object_counts_from_the_score_that_was_asked_for() -> None:
    masks = np.zeros((2, 4, 5), np.bool_)
    masks[0, 0], masks[1, 1] = True, True
    answer = {"instances": Instances(pred_masks=masks, scores=np.array([0.9, 0.6]))}
    frame = np.zeros((4, 5, 3), np.uint8)
    both = Detectron2Instruments(lambda _: answer, digest="0" * 64, least_chance=0.6)
    one = Detectron2Instruments(lambda _: answer, digest="0" * 64, least_chance=0.7)
    assert (both(frame).sum(), one(frame).sum()) == (10, 5)


def test_threads_do_not_enter_the_predictor_together() -> None:
    """Nothing says that a predictor may be shared; the adapter says that it may."""
    inside, most = 0, 0
    together = threading.Barrier(4)

    def predict(bgr: NDArray[np.uint8]) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.01)
        inside -= 1
        return {"instances": Instances(pred_masks=np.zeros((0, *bgr.shape[:2])), scores=np.zeros(0))}

    detector = Detectron2Instruments(predict, digest="0" * 64)

    def call() -> None:
        together.wait()
        detector(np.zeros((4, 5, 3), np.uint8))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put two modules with Detectron2's names and interface in its place; return the settings they use."""
    settings = SimpleNamespace(
        MODEL=SimpleNamespace(WEIGHTS="", DEVICE="cuda", ROI_HEADS=SimpleNamespace(SCORE_THRESH_TEST=0.05)),
        merged=[],
    )
    settings.merge_from_file = settings.merged.append

    class DefaultPredictor:
        def __init__(self, given: SimpleNamespace) -> None:
            assert given is settings

        def __call__(self, bgr: NDArray[np.uint8]) -> dict[str, Any]:
            mask = (bgr[..., 0] > 200)[None]
            return {"instances": Instances(pred_masks=mask, scores=np.ones(1))}

    parts = {"config": ("get_cfg", lambda: settings), "engine": ("DefaultPredictor", DefaultPredictor)}
    for name, value in parts.items():
        module = ModuleType(f"detectron2.{name}")
        setattr(module, *value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    return settings


def test_a_checkpoint_is_loaded_by_path_on_the_cpu(installed: SimpleNamespace, tmp_path: Path) -> None:
    """Nothing is downloaded: the file that was checked takes the place of what a configuration names."""
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    detector = load_detectron2(tmp_path / "config.yaml", checkpoint, sha256=sha256, least_chance=0.7)
    assert installed.merged == [str(tmp_path / "config.yaml")]
    assert (str(checkpoint), "cpu") == (installed.MODEL.WEIGHTS, installed.MODEL.DEVICE)
    assert installed.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.7
    assert detector.digest == sha256
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, 0, 2] = 255
    assert detector(frame).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("content", [b"other weights", None])
def test_a_missing_or_another_checkpoint_is_refused(
    installed: SimpleNamespace, tmp_path: Path, content: bytes | None
) -> None:
    """A checkpoint is a pickle: opening an unknown one runs what it holds."""
    checkpoint = tmp_path / "model.pth"
    if content is not None:
        checkpoint.write_bytes(content)
    with pytest.raises(Detectron2Error, match=r"model\.pth: "):
        load_detectron2(tmp_path / "config.yaml", checkpoint, sha256=hashlib.sha256(b"weights").hexdigest())
    assert installed.MODEL.WEIGHTS == ""
