"""What stored predictions are asked by: one vocabulary for the command line, the API and the query itself."""

import datetime as dt
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)


def _day(value: Any) -> Any:
    """Refuse what would be taken for seconds since 1970: 20260101 were a day of that year."""
    if not isinstance(value, dt.date) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", str(value)):
        raise ValueError("a day was expected, such as 2026-03-31")
    return value


Term = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
"""PostgreSQL takes no NUL in a text, and answers it with an error."""
Maybe = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")]
"""The same of what an exam may lack; empty, it asks for those that do."""
Place = Annotated[Term, WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,17}-[0-9]{1,18}$"})]
Day = Annotated[dt.date, BeforeValidator(_day)]
Share = Annotated[float, Field(ge=0, le=1)]


class PredictionFilters(BaseModel):
    """What predictions must be like; what is not given is not asked. All are of the time of the reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    patient_id: Term | None = Field(default=None, description="Patient ID, exactly; of any issuer.")
    issuer_of_patient_id: Maybe | None = Field(
        default=None, description="Issuer of that Patient ID; empty: it has none."
    )
    since: Day | None = Field(default=None, description="First day of reading, UTC.")
    until: Day | None = Field(default=None, description="Last day of reading, UTC.")
    model_version: Term | None = Field(default=None, description="Version of the model package.")
    model_digest: Term | None = Field(
        default=None, description="Digest of the model package, or its beginning."
    )
    recipe_digest: Term | None = Field(
        default=None, description="Digest of the cleaning recipe, or its beginning."
    )
    reading: Literal["ibd", "healthy", "unpredicted"] | None = Field(
        default=None, description="ibd, healthy or unpredicted."
    )
    unpredicted_reason: Term | None = Field(default=None, description="Why it is unpredicted.")
    min_probability: Share | None = Field(default=None, description="Least probability of IBD.")
    max_probability: Share | None = Field(default=None, description="Highest probability of IBD.")
    min_confidence: Share | None = Field(default=None, description="Least confidence of the reading.")
    max_confidence: Share | None = Field(default=None, description="Highest confidence of the reading.")
    verdict: Literal["accepted", "rejected", "none"] | None = Field(
        default=None, description="accepted, rejected, or none: nobody has said."
    )
    peer: Term | None = Field(default=None, description="AE title that the exam came from.")
    device_model: Maybe | None = Field(
        default=None, description="Manufacturer and model of the device; empty: not stated."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_true_or_false(cls, given: Any) -> Any:
        """Refuse what would be taken for 1 or 0."""
        if isinstance(given, dict) and any(isinstance(value, bool) for value in given.values()):
            raise ValueError("text or a number was expected")
        return given

    @model_validator(mode="after")
    def _issuer_is_of_a_patient(self) -> Self:
        if self.issuer_of_patient_id is not None and self.patient_id is None:
            raise ValueError("issuer_of_patient_id narrows patient_id, which is missing")
        return self


class PredictionQuery(PredictionFilters):
    """The filters, and which page of the answer: by `after`, by number, or both."""

    after: Place | None = Field(
        default=None, description="`next` of the page before; without it, from the newest."
    )
    page: int = Field(default=1, ge=1, le=1_000_000, description="Number of the page, counted from there on.")
    limit: int = Field(default=50, ge=1, le=500, description="Predictions a page.")
