"""The node's settings: one frozen object from a TOML file and the environment."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableVariableError

from node.errors import SettingsError
from node.roles import Role
from node.rules import EndoscopyRule, LowerGiRule, Table

__all__ = ["ENV_PREFIX", "EndoscopyRule", "LowerGiRule", "Peer", "Settings", "load_settings"]

ENV_PREFIX = "ENDONODE_"
RESERVED = frozenset({"ENDONODE_CONFIG", "ENDONODE_DATA"})
"""Not settings: the default of ``--config``, and where the tests find real frames."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
A_YEAR_S = 31_536_000
Seconds = Annotated[float, Field(gt=0, le=A_YEAR_S)]


def _ae_title(value: str) -> str:
    title = value.strip()
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):  # PS3.5 6.2
        raise ValueError(f"an AE title has 1-16 ASCII characters and no backslash; {value!r} was found")
    return title


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"an address or a network (CIDR) was expected; {value!r} was found") from None
    return values


def _issuer(value: str) -> str:
    url = urlsplit(value)
    is_loopback = url.scheme == "http" and url.hostname in LOOPBACK
    if value and not (url.hostname and (url.scheme == "https" or is_loopback)):
        raise ValueError(f"an https address was expected (http on loopback alone); {value!r} was found")
    return value


def _time_zone(name: str) -> str:
    try:
        return ZoneInfo(name).key if name else name
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(
            f"an IANA time zone such as Europe/Vienna was expected; {name!r} was found"
        ) from None


AeTitle = Annotated[str, AfterValidator(_ae_title)]


class Peer(Table):
    """One remote AE: who may send to us, and who gets our results."""

    ae_title: AeTitle = Field(description="AE title of the peer, 1-16 characters.")
    host: str = Field(description="Host name or address that we call.")
    port: int = Field(ge=1, le=65535, description="TCP port that we call.")
    addresses: Annotated[tuple[str, ...], AfterValidator(_addresses)] = Field(
        default=("127.0.0.1",), description="Addresses or networks (CIDR) from which this peer may call us."
    )
    may_send: bool = Field(default=True, description="Whether the peer may store objects here.")
    may_query: bool = Field(
        default=True, description="Whether the peer may query (C-FIND) and retrieve (C-MOVE, C-GET) here."
    )
    receives_results: bool = Field(default=False, description="Whether results are sent to this peer.")
    results: tuple[Literal["sc", "sr", "ko"], ...] = Field(
        default=("sc", "sr", "ko"),
        description="Kinds of result that the peer is sent: pages, structured report, key objects.",
    )
    rejection_notes: bool = Field(
        default=False, description="Whether the peer is told by a rejection note (IHE IOCM) what is replaced."
    )
    storage_commitment: Literal["auto", "required", "never"] = Field(
        default="auto",
        description="Whether a result counts as delivered only once the peer has committed to it: `auto`, "
        "where it takes storage commitment; `required`, always; `never`, on its answers to C-STORE alone.",
    )
    sc_form: Literal["auto", "multi_frame", "single_frame"] = Field(
        default="auto",
        description="Form of the Secondary Capture; `auto`: multi-frame, or what a refusal has taught.",
    )
    sr_form: Literal["auto", "comprehensive_3d", "comprehensive"] = Field(
        default="auto",
        description="Form of the Structured Report; `auto`: Comprehensive 3D, or what a refusal has taught.",
    )
    query_completeness: bool = Field(
        default=True, description="Whether the peer is asked (C-FIND) what it holds before an exam is closed."
    )
    worklist: bool = Field(
        default=False,
        description="Whether the peer's modality worklist is asked for the order of an exam that is closed.",
    )
    workitem_period_s: float = Field(
        default=0, ge=0, le=A_YEAR_S,
        description="Seconds between two looks for our steps in the peer's unified worklist (UPS); 0: none.",
    )  # fmt: skip
    default_issuer: str = Field(
        default="", max_length=64, description="Issuer of Patient ID for this peer's images that carry none."
    )


class Settings(BaseSettings):
    """Everything an operator can set. TOML file first, then ``ENDONODE_*`` variables over it."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, env_prefix=ENV_PREFIX)

    ae_title: AeTitle = Field(default="ENDONODE", description="Our AE title, 1-16 characters.")
    port: int = Field(default=11112, ge=1, le=65535, description="TCP port of our storage SCP.")
    bind: str = Field(default="127.0.0.1", description="Address that the storage SCP listens on.")
    storage_dir: Path = Field(
        default=Path("/var/lib/endonode"),
        description="Folder of the stored objects; one mount for all hosts.",
    )
    database_url: str = Field(
        default="sqlite:////var/lib/endonode/endonode.db",
        description="`sqlite:` (one host) or `postgresql+psycopg:` (any number).",
    )
    model_dir: Path | None = Field(
        default=None, description="Folder of the model package; empty: the reference package that ships."
    )
    recipe: Path | None = Field(
        default=None,
        description="TOML file of the cleaning recipe, which the model package must have been made with; "
        "empty: the default.",
    )
    peers: tuple[Peer, ...] = Field(default=(), description="The remote AEs we know; all others are refused.")
    quiet_time_s: Seconds = Field(
        default=30, description="Seconds without a new image after which an exam is closed."
    )
    late_quiet_time_s: Seconds = Field(
        default=300, description="The same, in seconds, for a revision that a late image opened."
    )
    max_wait_s: float = Field(
        default=900, ge=0, le=A_YEAR_S,
        description="Seconds that an exam known to be incomplete waits for the rest.",
    )  # fmt: skip
    query_timeout_s: Seconds = Field(
        default=30, description="Seconds within which a peer must answer a completeness query."
    )
    min_free_bytes: int = Field(
        default=2_000_000_000, ge=0, description="Free bytes of the storage file system below which 0xA700."
    )
    keep_days: int = Field(
        default=0, ge=0, description="Days after which pixels of delivered exams are purged; 0: never."
    )
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="",
        description="IANA time zone of the site; empty: results are in the host's, and state none.",
    )
    http_bind: str = Field(
        default="127.0.0.1",
        description="Address that the page listens on; another than loopback needs TLS or `behind_proxy`.",
    )
    http_port: int = Field(default=8470, ge=0, le=65535, description="TCP port of the page; 0: no page.")
    behind_proxy: bool = Field(
        default=False,
        description="Whether one proxy of the site's own stands before the page, speaks TLS to browsers and "
        "names each in X-Forwarded-For.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the page's certificate and its chain; empty: no TLS."
    )
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    oidc_issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        default="",
        description="OpenID Connect provider by which people may log in to the page too, as it names itself, "
        "such as `https://login.example.org/realms/clinic`; needs the extra `oidc`. Empty: passwords alone.",
    )
    oidc_client_id: str = Field(default="", description="Client id under which the provider knows the page.")
    oidc_client_secret_file: Path | None = Field(
        default=None, description="File that holds the client secret and nothing else."
    )
    oidc_name_claim: str = Field(
        default="preferred_username", description="Claim of the ID token that is taken as the user's name."
    )
    oidc_role_claim: str = Field(
        default="groups", description="Claim of the ID token, a text or a list, that gives the user's role."
    )
    oidc_roles: Mapping[str, Role] = Field(
        default={},
        description="Role for each value of that claim; of several the highest. Who has none is refused.",
    )
    session_idle_s: Seconds = Field(
        default=1800,
        description="Seconds without use after which who is logged in to the page is so no longer.",
    )
    session_absolute_s: Seconds = Field(
        default=43_200, description="Seconds after a login to the page at which it ends, used or not."
    )
    max_associations: int = Field(
        default=50, ge=1, description="Associations served at once; the next is rejected."
    )
    network_timeout_s: Seconds = Field(
        default=60, description="Seconds an association may idle between messages."
    )
    pdu_timeout_s: Seconds = Field(
        default=30, description="Seconds within which a begun PDU must be complete."
    )
    max_inflated_bytes: int = Field(
        default=2_000_000_000, gt=0, description="Bytes to which a deflated dataset may expand."
    )
    max_frame_pixels: int = Field(
        default=64_000_000, gt=0, description="Pixels a single frame may have before it is not decoded."
    )
    video_frames_per_second: float = Field(
        default=1.0, gt=0, description="Frames a second sampled from a video object."
    )
    worker_threads: int = Field(
        default=0, ge=0, description="Threads that decode, clean and read; 0: one a core."
    )
    delivery_deadline_s: Seconds = Field(
        default=604_800, description="Seconds after which an undelivered result is a dead letter."
    )
    commitment_timeout_s: Seconds = Field(
        default=3600, description="Seconds within which a peer must report on a storage commitment."
    )
    commitment_attempts: int = Field(
        default=3, ge=1, description="Requests without a report after which a result is `unconfirmed`."
    )
    fallback_days: int = Field(
        default=30, ge=1,
        description="Days for which it is remembered that a peer refuses a form of result, or commitment.",
    )  # fmt: skip
    other_objects: Literal["keep", "refuse"] = Field(
        default="keep", description="What is not endoscopy: kept unread, or its contexts rejected."
    )
    audit_key: Path | None = Field(
        default=None,
        description="File of the key that chains the audit trail: one for all hosts, made at the first "
        "start, never in the database. Empty: `audit.key` in `storage_dir`.",
    )
    audit_head: Path | None = Field(
        default=None,
        description="File to which the head of the audit trail is appended each minute; best where who may "
        "change the database may not write. Empty: `audit.head` in `storage_dir`.",
    )
    syslog_host: str = Field(
        default="", description="Syslog receiver of audit messages (PS3.15 A.5); empty: none is sent any."
    )
    syslog_port: int = Field(default=6514, ge=1, le=65535, description="TCP port of the syslog receiver.")
    syslog_transport: Literal["tls", "tcp"] = Field(
        default="tls", description="`tls` (RFC 5425), or `tcp` alone: Patient IDs then pass in the clear."
    )
    syslog_ca: Path | None = Field(
        default=None,
        description="PEM file of who may vouch for the syslog receiver; empty: whom the system trusts.",
    )
    syslog_spool: int = Field(
        default=100_000, ge=100,
        description="Audit events that may wait for the syslog receiver; of more, the oldest are not sent.",
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe event that is logged."
    )
    endoscopy: EndoscopyRule = Field(default=EndoscopyRule(), description="What is read as endoscopy.")
    lower_gi: LowerGiRule = Field(default=LowerGiRule(), description="What is known not to be lower GI.")

    @field_validator(
        "model_dir", "recipe", "tls_certificate", "tls_key", "audit_key", "audit_head", "syslog_ca",
        "oidc_client_secret_file",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @model_validator(mode="after")
    def _peers_are_distinct(self) -> Self:
        titles = [peer.ae_title for peer in self.peers]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"each peer has an AE title of its own; named twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _page_is_guarded(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: both were expected, one alone was found")
        is_loopback = self.http_bind in LOOPBACK
        if self.http_port and not (is_loopback or self.tls_certificate or self.behind_proxy):
            raise ValueError(
                f"http_bind: loopback, or TLS (tls_certificate, tls_key), or behind_proxy was expected, "
                f"{self.http_bind} alone was found"
            )
        return self

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        needed = {
            "oidc_issuer": self.oidc_issuer, "oidc_client_id": self.oidc_client_id,
            "oidc_client_secret_file": self.oidc_client_secret_file, "oidc_roles": self.oidc_roles,
        }  # fmt: skip
        missing = [name for name, value in needed.items() if not value]
        if missing and len(missing) < len(needed):
            raise ValueError(f"{', '.join(needed)}: all were expected; missing: {', '.join(missing)}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic passes all five by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: Any,
        **_others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; no dotenv, no secrets folder."""
        return env_settings, init_settings

    def peer(self, ae_title: str) -> Peer | None:
        """Return the peer of that AE title, or None."""
        return next((peer for peer in self.peers if peer.ae_title == ae_title), None)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}" if close else ""


def _refuse_unknown_variables() -> None:
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    for variable in sorted(os.environ):
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in {*known, *RESERVED}:
            raise SettingsError(
                f"environment: {variable} is no setting{_nearest(variable.upper(), known)}; mend or unset it"
            )


EXPECTED = {
    "tuple": "a list in square brackets was expected",
    "int": "a whole number was expected",
    "float": "a number was expected",
    "finite": "a finite number was expected",
    "bool": "true or false was expected",
    "string": "text in quotes was expected",
    "path": "a path in quotes was expected",
    "model": "a table was expected",
    "missing": "it is required and was not found",
}
"""What an operator is told, by the first word of the type of pydantic's error."""


def _describe(error: ValidationError, file: str) -> str:
    first = error.errors()[0]
    variable = f"{ENV_PREFIX}{first['loc'][0]}".upper() if first["loc"] else ""
    source = f"environment: {variable}" if variable in os.environ else file
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        model: Any = Settings
        for part in first["loc"][:-1]:
            if isinstance(part, str):
                model = {"peers": Peer, "endoscopy": EndoscopyRule, "lower_gi": LowerGiRule}[part]
        nearest = _nearest(str(first["loc"][-1]), list(model.model_fields))
        return f"{source}: unknown key {where!r}{nearest}; correct or remove it"
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    said = EXPECTED.get(first["type"].split("_")[0], said)
    return f"{source}: {where}: {said}; correct it and start again"


def load_settings(config: Path | None) -> Settings:
    """Read the TOML file (or defaults alone) and the environment.

    Raises
    ------
    SettingsError
        The file is missing or not TOML, a key or variable is unknown, or a value does not fit.
    """
    _refuse_unknown_variables()
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SettingsError(f"{config}: no such settings file; name one with --config") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{config}: TOML was expected: {error}") from error
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_describe(error, str(config or "environment"))) from error
    except UnreadableVariableError as error:
        raise SettingsError(f"environment: {error}; JSON was expected") from error
