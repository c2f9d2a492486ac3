"""`endonode audit`: is the trail whole, and the trail as a file."""

import datetime as dt
import sys
from typing import Annotated, Literal

import typer

from node.cli.opening import Config, open_configured

audit_app = typer.Typer(help="Verify the audit trail, or export it.")


def _instant(text: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a date or time was expected, such as 2026-01-31T08:00+01:00") from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


Instant = Annotated[
    dt.datetime | None,
    typer.Option(parser=_instant, metavar="TIME", help="ISO 8601; UTC where no offset is given."),
]


@audit_app.command()
def verify(config: Config = None) -> None:
    """Walk the chain and name what was removed, altered, swapped, inserted or cut off; then exit 1."""
    from node.audit.head import read_heads
    from node.audit.key import head_path, key_path, read_key
    from node.audit.verify import verify as run

    with open_configured(config) as node:
        key = read_key(key_path(node.settings))
        verdict = run(node.database, key, read_heads(head_path(node.settings)))
    for finding in verdict.findings:
        typer.echo(finding)
    if verdict.findings:
        raise typer.Exit(1)
    typer.echo(
        f"the audit trail is whole: {verdict.head.seq} events linked, {verdict.waiting} not yet; "
        f"head {verdict.head.mac}"
    )


@audit_app.command()
def export(
    *,
    since: Instant = None,
    until: Instant = None,
    form: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", help="One object or row an event.")
    ] = "jsonl",
    config: Config = None,
) -> None:
    """Write the events of a time to standard output; this is an event itself."""
    from node.audit.export import export as run

    with open_configured(config) as node:
        run(node.database, sys.stdout, since=since, until=until, form=form)
