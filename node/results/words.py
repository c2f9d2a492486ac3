"""What a result's pages say, in words that people read; machine values are never shown."""

import math

from node.results.report import EvidencePanel, Report

CAUTIONARY = "Research use, not a diagnosis"
READINGS = {
    "ibd": "IBD pattern found",
    "healthy": "No IBD pattern found; other findings are not assessed",
    "unpredicted": "UNPREDICTED",
    "failed": "READING FAILED",
}
FAILURE = "The software failed while it read the images; nothing was found and nothing ruled out."
REASONS = {
    "no_frames": "No frame was fit to be read.",
    "below_threshold": "No frame reached the confidence threshold.",
    "no_images": "The images that this exam had were set aside; the model was not run.",
    "images_purged": "Earlier images of this exam were purged; the model was not run. Send the study again.",
    "not_lower_gi": "The exam is not of the lower gastrointestinal tract; the model was not run.",
    "rests_on_filled": "What reached the threshold rests on filled pixels, which are no evidence.",
    "out_of_distribution": "The frames are unlike those that the model has learnt from.",
}
NO_VOTE = "below threshold, did not vote"
NO_VOTE_DESPITE = {
    "rests_on_filled": "rests on filled pixels, did not vote",
    "out_of_distribution": "unlike what the model has learnt from, did not vote",
}
NOT_SHOWN = "Not shown: text was still found on it"
SHARE_TOLD = 0.01
"""Share of the activation on filled pixels above which a reader is told."""

FRAMES = {"clean": "Original frame", "blanked": "Original frame, overlay text blanked flat"}
CLASSES = {"ibd": "IBD pattern", "healthy": "no IBD pattern"}


def vote(panel: EvidencePanel) -> str:
    """Return whether a frame voted, and else why not."""
    if panel.voted:
        return "voted"
    if panel.reason is None:
        return NO_VOTE
    return NO_VOTE_DESPITE.get(panel.reason, f"{panel.reason.replace('_', ' ')}, did not vote")


def place(panel: EvidencePanel) -> str:
    """Return where a frame is found among the exam's images."""
    frame = f"frame {panel.source.frame_number}"
    return frame if panel.image_number is None else f"image {panel.image_number}, {frame}"


def share(probability: float) -> str:
    """Return two decimals, and never a certainty that was not computed."""
    shown = f"{probability:.2f}"
    return {"0.00": "< 0.01", "1.00": "> 0.99"}.get(shown, shown)


def confidence(panel: EvidencePanel) -> str:
    """Return three decimals, cut and not rounded: what missed the threshold never looks as if it met it."""
    return f"{math.floor(panel.confidence * 1000) / 1000:.3f}"


def images(count: int | None) -> str:
    """Return how many images, where that is known."""
    return {None: "images", 1: "1 image"}.get(count, f"{count} images")


def notes(report: Report) -> list[tuple[str, bool]]:
    """Return what a reader must know of the exam, and of each note whether it limits the reading."""
    unreadable = report.objects_unreadable
    completeness = {
        "complete": ("Complete: all images that the PACS holds arrived.", False),
        "incomplete": (f"Incomplete: {images(report.missing_count)} the PACS holds did not arrive.", True),
        "unknown": ("Completeness unknown: the PACS did not say what it holds.", True),
    }
    said = [completeness[report.completeness_verdict]]
    if unreadable:
        objects = "1 object" if unreadable == 1 else f"{unreadable} objects"
        said.append((f"{objects} could not be decoded and played no part.", True))
    if report.frames_foreign:
        frames = f"{report.frames_foreign} of {report.frames_kept} frames"
        said.append((f"{frames} unlike those learnt from: without a vote.", True))
    if not report.body_part_stated and report.reading != "failed":
        said.append(("Body part not stated; lower GI is assumed.", True))
    if report.reading == "unpredicted":
        said.append(("Unpredicted is an abstention: neither IBD nor its absence.", False))
    return said
