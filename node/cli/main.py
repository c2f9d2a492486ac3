"""The commands. Each loads what it needs when it runs, so that help and short commands start at once."""

import importlib
import json
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from node.cli.audit import audit_app
from node.cli.opening import Config
from node.cli.opening import open_configured as _node
from node.cli.opening import read_settings as _settings
from node.cli.predictions import predictions, quality, replay
from node.cli.users import tokens_app, users_app

AsJson = Annotated[bool, typer.Option("--json", help="A JSON array, one object each.")]
Instance = Annotated[int, typer.Argument(metavar="N", help="Number that `quarantine list` shows.")]
OUR_PACKAGES = ("node", "pipeline", "models", "db")

app = typer.Typer(
    name="endonode",
    help="A DICOM storage node that reads endoscopy exams for IBD. Research use, not a diagnosis.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)
quarantine_app = typer.Typer(help="List, accept or discard objects that contradict others.")
exams_app = typer.Typer(invoke_without_command=True)
app.add_typer(exams_app, name="exams")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(audit_app, name="audit")
app.add_typer(users_app, name="users")
app.add_typer(tokens_app, name="tokens")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"endonode {version('endonode')}")
        raise typer.Exit


@app.callback()
def endonode(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Do what stands before every command: nothing."""


@app.command()
def serve(config: Config = None) -> None:
    """Receive, read and answer until stopped; SIGTERM drains."""
    from node.serving import serve as run

    run(_settings(config), config)


@app.command()
def receive(config: Config = None) -> None:
    """Receive only, beside `work` on the same database."""
    from node.serving import receive as run

    run(_settings(config))


@app.command()
def work(config: Config = None) -> None:
    """Read and answer only, beside `receive`."""
    from node.serving import work as run

    run(_settings(config))


@app.command()
def page(config: Config = None) -> None:
    """Serve the page only, beside `receive` and `work`."""
    from node.serving import page as run

    run(_settings(config))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option(metavar="AE", help="AE title of a peer; without it, this node.")] = "",
    config: Config = None,
) -> None:
    """Send DICOM files to this node, or to a peer."""
    from node.cli.sending import send_files

    send_files(_settings(config), paths, to)


@exams_app.callback()
def exams(context: typer.Context, *, as_json: AsJson = False, config: Config = None) -> None:
    """Show every exam, or move a study to another patient."""
    if context.invoked_subcommand is not None:
        return
    from node.cli.tables import print_exams
    from node.listing import list_exams

    with _node(config) as node:
        _print_json(list_exams(node)) if as_json else print_exams(list_exams(node))


@exams_app.command()
def move(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    to: Annotated[str, typer.Option(metavar="PATIENT", help="The right Patient ID.")],
    config: Config = None,
) -> None:
    """Move a study to another Patient ID after a correction; it is read anew."""
    from node.quarantine import move_study

    with _node(config) as node:
        for exam_id in move_study(node, study, to):
            typer.echo(f"exam {exam_id}: will be read under the new Patient ID")


@app.command()
def retry(
    exam: Annotated[str, typer.Argument(metavar="EXAM", help="Exam id.")], config: Config = None
) -> None:
    """Take a failed exam up again where it failed."""
    from node.retry import retry_exam

    with _node(config) as node:
        typer.echo(f"exam {exam}: taken up again at {retry_exam(node, exam)}")


@quarantine_app.command("list")
def quarantine_list(*, as_json: AsJson = False, config: Config = None) -> None:
    """Show each quarantined object and why it is there."""
    from node.cli.tables import print_quarantined
    from node.quarantine import list_quarantined

    with _node(config) as node:
        _print_json(list_quarantined(node)) if as_json else print_quarantined(list_quarantined(node))


@quarantine_app.command("accept")
def quarantine_accept(instance: Instance, config: Config = None) -> None:
    """Put an object in force; what it contradicts goes into quarantine instead."""
    from node.quarantine import accept

    with _node(config) as node:
        exam = accept(node, instance)
        typer.echo(
            f"instance {instance}: accepted; {f'exam {exam} will be read' if exam else 'it is not read'}"
        )


@quarantine_app.command("discard")
def quarantine_discard(instance: Instance, config: Config = None) -> None:
    """Set an object aside for good."""
    from node.quarantine import discard

    with _node(config) as node:
        discard(node, instance)
        typer.echo(f"instance {instance}: discarded")


@app.command()
def migrate(config: Config = None) -> None:
    """Bring the database to this version."""
    from db.engine import open_database
    from db.schema import migrate as run

    with closing(open_database(_settings(config).database_url)) as database:
        run(database)
    typer.echo("the database is at this version")


@app.command()
def check(config: Config = None) -> None:
    """Check settings, database, model, disk and each peer."""
    from node.check import check as run

    findings = list(run(_settings(config)))
    for finding in findings:
        typer.echo(f"{'ok    ' if finding.is_ok else 'FAILED'}  {finding.subject:<10}  {finding.text}")
    raise typer.Exit(0 if all(finding.is_ok for finding in findings) else 1)


@app.command()
def demo(
    frames: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read the images of a folder; without it, painted ones."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is left.")] = Path("demo-out"),
) -> None:
    """Send a study through a node of its own, on loopback."""
    from node.demo.run import run_demo

    raise typer.Exit(run_demo(frames, out))


for command in (predictions, quality, replay):
    app.command()(command)


def main() -> None:
    """Run a command; an error becomes one line on standard error and exit status 1, or 2 for wrong usage."""
    try:
        _claim_package_names()
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except TyperException as error:
        said = getattr(error, "format_message", error.__str__)()
        _fail(f"{' '.join(said.split())} (see --help)", status=2)
    except (KeyboardInterrupt, Abort):
        _fail("stopped", status=130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, and so is the one of what we would say of it
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the outermost loop: a traceback may quote what must not be shown
        _fail(_one_line(error), status=1)


def _claim_package_names() -> None:
    """Load `models` and its sisters from where this file lies: others may stand before them on the path.

    ``python -m`` searches the working directory first, where an operator may keep a folder called ``db``.
    """
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    for name in OUR_PACKAGES:
        importlib.import_module(name)
    sys.path.remove(str(root))


def _one_line(error: Exception) -> str:
    """Say an error of ours in its own words; of any other one only what it is and where it arose."""
    if type(error).__module__.split(".")[0] in OUR_PACKAGES:
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"{error}; the installation is not whole, install it again"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} at {last.filename}:{last.lineno}; please report this line"


def _fail(message: str, *, status: int) -> None:
    typer.echo(f"endonode: {message}", err=True)
    sys.exit(status)


def _print_json(rows: list[dict[str, Any]]) -> None:
    typer.echo(json.dumps(rows, indent=2))
