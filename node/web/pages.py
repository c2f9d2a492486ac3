"""Templates and the words that only the page uses."""

import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from node.results import words
from node.settings import Settings

FOLDER = Path(__file__).parent

STATES = {
    "receiving": "Receiving",
    "closed": "Waiting to be read",
    "reading": "Being read",
    "read": "Read",
    "delivering": "Being delivered",
    "delivered": "Delivered",
    "failed": "Failed",
}
WALK = ("receiving", "closed", "reading", "read", "delivering", "delivered")
"""The states in their order, for the progress that a row shows."""

VERDICTS = {"accepted": "Accepted", "rejected": "Rejected"}
REJECTIONS = {
    "no_content": "no endoscopic image in it",
    "undecodable": "could not be decoded",
}


def environment(settings: Settings) -> Environment:
    """Return the templates: everything is escaped, and a name that is not there is an error."""
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    zone = ZoneInfo(settings.timezone) if settings.timezone else dt.UTC

    def moment(at: dt.datetime | None) -> str:
        return "" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M}"

    found.filters |= {"moment": moment, "study_date": study_date, "share": words.share, "said": said}
    found.globals |= {
        "CAUTIONARY": words.CAUTIONARY, "READINGS": words.READINGS, "REASONS": words.REASONS,
        "CLASSES": words.CLASSES, "STATES": STATES, "WALK": WALK, "VERDICTS": VERDICTS,
        "zone": settings.timezone or "UTC", "provider": urlsplit(settings.oidc_issuer).hostname,
    }  # fmt: skip
    return found


def study_date(value: str) -> str:
    """Return a DICOM date (PS3.5 6.2, DA) as people write one; what is none stays as it came.

    >>> study_date("20260131"), study_date("31.1.26")
    ('2026-01-31', '31.1.26')
    """
    is_date = len(value) == 8 and value.isdigit()  # noqa: PLR2004 - YYYYMMDD
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if is_date else value


def said(value: str) -> str:
    """Return a machine value as words.

    >>> said("below_threshold")
    'below threshold'
    """
    return value.replace("_", " ")


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page; the visitor and the token that its forms repeat are always at hand."""
    known = {"visitor": getattr(request.state, "visitor", None), "csrf": getattr(request.state, "csrf", "")}
    html = request.app.state.templates.get_template(template).render(request=request, **known, **context)
    return HTMLResponse(html, status)
