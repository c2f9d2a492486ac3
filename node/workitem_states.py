"""The states of a Unified Procedure Step, and what each request makes of them (PS3.4 CC.1.1)."""

SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
LOST = "LOST"
"""Ours alone: of a workitem that a peer manages, and another performs."""
OPEN, FINAL = (SCHEDULED, IN_PROGRESS), (COMPLETED, CANCELED)

SUCCESS = 0x0000
ALREADY_CANCELED, ALREADY_COMPLETED = 0xB304, 0xB306
NO_LONGER_UPDATED, WRONG_TRANSACTION_UID, ALREADY_IN_PROGRESS = 0xC300, 0xC301, 0xC302
ONLY_CREATED_SCHEDULED, NOT_READY_FOR_FINAL_STATE = 0xC303, 0xC304
NO_SUCH_WORKITEM, NOT_IN_PROGRESS, IS_COMPLETED, NOT_CANCELED = 0xC307, 0xC310, 0xC311, 0xC313
"""PS3.4 tables CC.2.1-2 and CC.2.2-2."""

_CHANGES = {
    IN_PROGRESS: (SUCCESS, ALREADY_IN_PROGRESS, NO_LONGER_UPDATED, NO_LONGER_UPDATED),
    COMPLETED: (NOT_IN_PROGRESS, SUCCESS, ALREADY_COMPLETED, NO_LONGER_UPDATED),
    CANCELED: (NOT_IN_PROGRESS, SUCCESS, NO_LONGER_UPDATED, ALREADY_CANCELED),
}
_CANCELS = (SUCCESS, NOT_CANCELED, IS_COMPLETED, ALREADY_CANCELED)
"""Where it is SCHEDULED, IN PROGRESS, COMPLETED, CANCELED."""


def change(state: str | None, to: str, *, holds_lock: bool, is_ready: bool) -> int:
    """Return the status of a change of state (PS3.4 table CC.1.1-2); 0x0000: it becomes `to`.

    Parameters
    ----------
    holds_lock
        Whether the right Transaction UID came with the request: any, where the workitem has none yet.
    is_ready
        Whether its attributes meet what the final state demands (CC.2.5.1.1).
    """
    if state is None:
        return NO_SUCH_WORKITEM
    if to == SCHEDULED:
        return ONLY_CREATED_SCHEDULED
    if not holds_lock:
        return WRONG_TRANSACTION_UID
    status = _CHANGES[to][(*OPEN, *FINAL).index(state)]
    return NOT_READY_FOR_FINAL_STATE if status == SUCCESS and to in FINAL and not is_ready else status


def request_cancel(state: str | None) -> int:
    """Return the status of a request to cancel one of our own; 0x0000: it becomes CANCELED (CC.2.2.3).

    What is being read is read to its end: the images are there, and so will be the result.
    """
    return NO_SUCH_WORKITEM if state is None else _CANCELS[(*OPEN, *FINAL).index(state)]


def due_state(exam_state: str, *, is_sent: bool) -> str:
    """Return the state that a workitem is due to be in, by that of its exam's newest revision.

    Where results go to no peer (`is_sent`), what is read is done.
    """
    if exam_state == "failed":
        return CANCELED
    if exam_state == "delivered" or (exam_state == "read" and not is_sent):
        return COMPLETED
    return IN_PROGRESS if exam_state in ("reading", "read", "delivering") else SCHEDULED
