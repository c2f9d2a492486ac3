"""What reviewers say of a reading: appended, never changed; the newest verdict is the prediction's."""

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import PredictionRow, ReviewRow, UserRow
from db.tallies import give_verdict
from node.errors import NodeError, NotFoundError
from node.house import Node

Verdict = Literal["accepted", "rejected"]

REASONS = {
    "false_positive": "an IBD pattern was read where there is none",
    "false_negative": "an IBD pattern is there and was not read",
    "should_abstain": "the images allow no reading",
    "should_read": "the images would have allowed a reading",
    "wrong_frames": "the frames shown do not bear the reading out",
    "wrong_exam": "not this patient, or not a lower GI endoscopy",
    "other": "another reason, said in the comment",
}
"""Why, in a code and in the words a person chooses by: assessments that share codes can be counted.

So IHE's AI Result Assessment (AIRAI) has it: a result is accepted or rejected with a coded reason, by whom
and when, and the result itself is left as it is.
"""

LONGEST_COMMENT = 4000


@dataclass(frozen=True, slots=True)
class Review:
    """One review as it was made; `verdict` is None where it is a comment alone."""

    id: int
    user: str
    verdict: str | None
    reason: str | None
    comment: str
    created_at: dt.datetime


def review(
    node: Node,
    *,
    user_id: int,
    prediction_id: int,
    verdict: Verdict | None,
    reason: str | None,
    comment: str,
) -> None:
    """Add a user's review; with it go the prediction's verdict, its tally and the audit event.

    Raises
    ------
    NodeError
        The reason is none of `REASONS`; a rejection names none; a comment is missing where nothing else is
        said, too long, or holds a NUL.
    NotFoundError
        There is no such prediction or user.
    """
    comment = comment.strip()
    _check(verdict, reason, comment)
    with node.database.writing() as session:
        prediction = session.get(PredictionRow, prediction_id, with_for_update=True)
        user = session.get(UserRow, user_id)
        if prediction is None or user is None:
            missing = f"user {user_id}" if prediction else f"prediction {prediction_id}"
            raise NotFoundError(f"{missing}: not known; nothing was reviewed")
        session.add(
            ReviewRow(
                prediction_id=prediction_id,
                user_id=user_id,
                verdict=verdict,
                reason=reason,
                comment=comment,
                created_at=utc_now(),
            )
        )
        if verdict is not None and verdict != prediction.verdict:
            give_verdict(session, prediction, verdict)
        digest = hashlib.sha256(comment.encode()).hexdigest()  # the chain vouches for the comment too
        said = {
            "prediction": prediction_id, "verdict": verdict, "reason": reason, "comment_sha256": digest,
        }  # fmt: skip
        record(session, "reading_reviewed", prediction.exam_id, actor=user.name, **said)


def reviews_of(session: Session, prediction_id: int) -> list[Review]:
    """Return a prediction's reviews, oldest first."""
    found = (
        select(
            ReviewRow.id, UserRow.name, ReviewRow.verdict, ReviewRow.reason, ReviewRow.comment,
            ReviewRow.created_at,
        )
        .join(UserRow, UserRow.id == ReviewRow.user_id)
        .where(ReviewRow.prediction_id == prediction_id)
        .order_by(ReviewRow.id)
    )  # fmt: skip
    return [Review(*row) for row in session.execute(found)]


def _check(verdict: Verdict | None, reason: str | None, comment: str) -> None:
    if reason is not None and reason not in REASONS:
        raise NodeError(f"a reason was expected, one of {', '.join(REASONS)}; another was found")
    if verdict == "rejected" and reason is None:
        raise NodeError(f"a rejection needs a reason, one of {', '.join(REASONS)}")
    if (verdict is None or reason == "other") and not comment:
        raise NodeError("a comment was expected, none was found: say what is to be known")
    if len(comment) > LONGEST_COMMENT or "\0" in comment:
        raise NodeError(f"a comment has at most {LONGEST_COMMENT} characters and no NUL; shorten it")
