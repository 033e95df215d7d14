"""``copyd``: the commands, their groups and their exit codes. Imports little: each command imports what it needs.

Exit codes: 0 done · 1 refused or failed · 2 usage · 65 journal damaged · 69 daemon, venue or address unavailable ·
70 broken invariant · 74 disk or network · 77 no permission · 78 configuration · 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from copyd import __version__
from copyd.errors import ConfigError, CopydError, OperatorError, UsageError

RUN, CHECK, OPERATE, INSPECT, BENCH, DEMO = (
    Group(name, sort_key=number) for number, name in enumerate(("Run", "Check", "Operate", "Inspect", "Bench", "Demo"), 1)
)

app = App(
    name="copyd",
    help="A leader trades, every follower's account follows, exactly once.",
    version=lambda: version_text(),
    version_flags=["--version", "-V"],
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,  # `main` answers it
)

#: Commands that bring their own arguments: the words after them go to this function untouched.
DELEGATED = {
    "exchange": ("copyd.exchange.main", "main"),
    "demo": ("copyd.demo.main", "main"),
    "bench": ("copyd.bench", "main"),
    "sim": ("copyd.sim.main", "main"),
}

ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"])]
DEFAULT_CONFIG = Path("/etc/copyd/copyd.yaml")


def version_text() -> str:
    """The version, the interpreter and whether the compiled part is there."""
    from importlib.util import find_spec

    compiled = "compiled kernels present" if find_spec("copyd._fast.meters") else "compiled kernels MISSING"
    return f"copyd {__version__} · Python {sys.version.split()[0]} · {compiled}"


# --- Run ---------------------------------------------------------------------------------------------------


@app.command(group=RUN)
def run(
    *,
    config: ConfigPath = DEFAULT_CONFIG,
    log_format: Literal["auto", "console", "json"] | None = None,
) -> int:
    """The daemon.

    Example: copyd run -c config/copyd.yaml

    Parameters
    ----------
    config
        The configuration.
    log_format
        Instead of telemetry.log_format.
    """
    from copyd.yamlcheck import load

    _late("copyd.vault.hygiene", "no_dumps")()
    loaded = load(config)
    result: int = _late("copyd.app", "run")(loaded.config, config, log_format)
    return result


# --- Check -------------------------------------------------------------------------------------------------


EVENT_ORDERS = 10_000
"""A fan-out for which the machine's settings are judged."""


@app.command(group=CHECK, name="check-config")
def check_config(
    file: Path | None = None,
    /,
    *,
    config: ConfigPath = DEFAULT_CONFIG,
    no_env: bool = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"])] = False,
    format: Literal["text", "json"] = "text",
    followers: int | None = None,
) -> int:
    """Every problem of a configuration at once, as file:line:col: key: problem (hint). Exit 78 when there is one.

    When there is none: how long a full fan-out takes inside each venue's limits, by leader and venue, and what would shorten it.

    Example: copyd check-config -c config/copyd.yaml --followers 2000

    Parameters
    ----------
    file
        The configuration (same as --config).
    config
        The configuration.
    no_env
        Only the file: do not look whether the paths in it exist, nor at what this machine's settings cost a fan-out.
    quiet
        Say nothing when all is well.
    format
        text, or JSON for tools.
    followers
        As if every leader had so many on every venue; default: those in the journal.
    """
    import msgspec

    from copyd.config import config_hash
    from copyd.host import host_notes
    from copyd.yamlcheck import check_files, config_paths, environment_problems

    path = file or config
    loaded, problems = check_files(config_paths(path))
    notes = []
    if loaded is not None and not no_env:
        share = -(-EVENT_ORDERS // min(venue.order_connections for venue in loaded.config.venues))
        notes = environment_problems(loaded.config) + host_notes(share, loaded.config.runtime.hot_threads)
    plan = _rate_plan(loaded.config, followers, no_env) if loaded is not None else []
    if format == "json":
        report = {
            "problems": [problem.as_dict() for problem in problems], "environment": notes, "ok": loaded is not None,
            "rate_plan": plan}
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        for note in notes:
            print(f"{path}: note: {note}", file=sys.stderr)
        if problems:
            print(f"{path}: {len(problems)} problem{'s' * (len(problems) != 1)}", file=sys.stderr)
        elif loaded is not None and not quiet:
            print(f"{path}: good, hash {config_hash(loaded.config)[:16]}")
            for line in plan:
                print(f"  {line}")
    return ConfigError.exit_code if problems else 0


def _rate_plan(config: Any, followers: int | None, no_env: bool) -> list[str]:
    """What the venues' limits make of a fan-out, for the followers named or those in the journal."""
    if followers is None and (no_env or not (Path(config.journal.path) / "data.mdb").exists()):
        return []
    from copyd import budget  # brings the venues' adapters along

    if followers is not None:
        return budget.report(config, budget.alike(config, followers))
    from copyd.inspect.rebuild import fold
    from copyd.inspect.summary import followers_by_venue
    from copyd.journal import Reader

    try:
        with Reader(config.journal.path) as reader:
            found = followers_by_venue(fold(reader))
    except CopydError as error:
        return [f"the followers in the journal were not read: {error}"]
    leaders, venues = {leader.id for leader in config.leaders}, {venue.name for venue in config.venues}
    return budget.report(config, {
        (leader, venue or config.venues[0].name): count for (leader, venue), count in found.items()
        if leader in leaders and (venue or config.venues[0].name) in venues})


venue = App(name="venue", help="An exchange as it is, beside what is relied on.", group=CHECK)
app.command(venue)


@venue.command(name="conformance")
def venue_conformance(
    name: str,
    /,
    *,
    config: ConfigPath = DEFAULT_CONFIG,
    credential: str = "",
    orders: bool = False,
    json: bool = False,
) -> int:
    """Hold a venue's contract record against the venue itself, row by row; read-only. Exit 1 when a row fails.

    Example: copyd venue conformance okx -c config/copyd.yaml --credential alice

    Parameters
    ----------
    name
        The venue, by its name in the configuration.
    config
        The configuration.
    credential
        Whose key is used, by its name; without one only what needs no key is looked at.
    orders
        Also place the smallest order, far from the market, which must end unfilled. For a demo or test environment.
    json
        For tools.
    """
    import asyncio

    import msgspec

    from copyd.vault.store import load_all
    from copyd.yamlcheck import load

    loaded = load(config).config
    found = next((one for one in loaded.venues if one.name == name), None)
    if found is None:
        raise UsageError(f"no venue is called {name} (known: {', '.join(one.name for one in loaded.venues)})")
    key = None
    if credential:
        key = load_all(loaded).get(credential)
        if key is None:
            raise UsageError(f"no credential is called {credential}")
    if orders and key is None:
        raise UsageError("--orders needs --credential")
    rows = asyncio.run(_venue_rows(loaded, found, key, orders))
    if json:
        sys.stdout.write(msgspec.json.encode([row._asdict() for row in rows]).decode() + "\n")
    else:
        for row in rows:
            word = "-" if row.ok is None else "ok" if row.ok else "FAILED"
            print(f"{word:7} {row.name:15} {row.says}: {row.found}")
    return int(any(row.ok is False for row in rows))


async def _venue_rows(config: Any, venue: Any, key: Any, orders: bool) -> Any:
    return await _late("copyd.venue_check", "Check")(config, venue, key, orders).run()


@app.command(group=CHECK)
def conformance(
    address: str,
    /,
    *,
    secret_file: Path,
    name: str = "conformance",
    account: str = "conformance",
    instrument: str = "",
    lots: int = 1,
    timeout_s: float = 3.0,
    only: str = "",
) -> int:
    """Hold an engine's batch door against the protocol, row by row. Exit 1 when a row fails.

    It places orders of the smallest size at the market: for a test environment, never a live one.

    Example: copyd conformance 127.0.0.1:9473 --secret-file batch.secret --account tester

    Parameters
    ----------
    address
        HOST:PORT or unix:PATH.
    secret_file
        The secret the session logs in with.
    name
        The session's name.
    account
        The account orders are placed in, by its name at the engine. It needs a little money.
    instrument
        The symbol to trade; default: the first one listed.
    lots
        The smallest quantity the engine takes.
    timeout_s
        How long an answer may take.
    only
        Only the checks whose name contains this.
    """
    result: int = _late("copyd.venues.batch.conformance", "main")(
        address, secret_file, name, account, instrument, lots, timeout_s, only)
    return result


config_app = App(name="config", group=CHECK, help="The configuration itself: a fresh one, its schema, what is in force.")
app.command(config_app)


@config_app.command
def schema() -> int:
    """The JSON Schema, for editors.

    Example: copyd config schema > schema.json
    """
    from copyd.config import json_schema_text

    sys.stdout.write(json_schema_text())
    return 0


@config_app.command
def init() -> int:
    """A complete commented configuration for the simulated exchange.

    Example: copyd config init > copyd.yaml
    """
    from copyd.configfile import config_text, example

    sys.stdout.write(config_text(example()))
    return 0


@config_app.command
def show(
    file: Path | None = None, /, *, config: ConfigPath = DEFAULT_CONFIG, effective: bool = False, origin: bool = False
) -> int:
    """What a configuration says.

    Example: copyd config show --effective --origin -c config/copyd.yaml

    Parameters
    ----------
    file
        The configuration (same as --config).
    config
        The configuration.
    effective
        Every value in force, defaults included.
    origin
        Beside each value where it was written.
    """
    from copyd.configfile import config_text, effective_rows
    from copyd.yamlcheck import load

    loaded = load(file or config)
    if not origin and not effective:
        sys.stdout.write(config_text(loaded.config, comments=False))
        return 0
    for key, value in effective_rows(loaded.config):
        place = loaded.origins.get(key)
        if not effective and place is None:
            continue
        where = f"  # {place.file}:{place.line}" if place else "  # default"
        print(f"{key}: {value}" + (where if origin else ""))
    return 0


# --- Operate -----------------------------------------------------------------------------------------------

app.command(
    "copyd.control.commands:app",  # imported when used
    name="ctl",
    group=OPERATE,
    help="Ask a running daemon: status, pause, kill switch, followers and plans.",
)


app.command("copyd.vault.commands:app", name="key", group=OPERATE, help="Exchange keys, sealed: add, test, rotate, revoke.")
app.command("copyd.settlement.commands:settle", name="settle", group=OPERATE, help="Charge the fees of a period.")


# --- Inspect -----------------------------------------------------------------------------------------------

app.command(
    "copyd.settlement.commands:statement",
    name="statement",
    group=INSPECT,
    help="Check statements and transfer files: every number again, without the journal.",
)
app.command(
    "copyd.serve.commands:app",
    name="stats",
    group=INSPECT,
    help="What leaders made and what their followers got, from the journal.",
)


@app.command(group=INSPECT)
def ledger(journal: Path, /, *, plan: str = "", json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """The journal as double-entry books: a trial balance, held against what the daemon believes. Exit 65 when they differ.

    Example: copyd ledger var/journal --plan bob

    Parameters
    ----------
    journal
        The journal's directory.
    plan
        Only the accounts of this follower's plans.
    json
        JSON instead of a table.
    """
    result: int = _late("copyd.inspect.ledger", "ledger")(journal, plan, json)
    return result


@app.command(group=INSPECT)
def replay(journal: Path, /, *, decisions: Path | None = None) -> int:
    """Rebuild the state from a journal and print it.

    Example: copyd replay var/journal

    Parameters
    ----------
    journal
        The journal's directory.
    decisions
        Write every recorded decision to this file, one JSON object per line.
    """
    result: int = _late("copyd.inspect", "replay")(journal, decisions)
    return result


@app.command(group=INSPECT)
def verify(journal: Path, /, *, sample: int | None = None) -> int:
    """Check a journal's chain, and that every recorded decision is what the rules give. Exit 65 when it is not.

    Example: copyd verify var/journal

    Parameters
    ----------
    journal
        The journal's directory.
    sample
        How many decisions the readable rules recompute, taken by account; 0 = all. Default: all of a small journal.
    """
    more = () if sample is None else (sample,)
    result: int = _late("copyd.inspect", "verify")(journal, *more)
    return result


@app.command(group=INSPECT)
def explain(
    client_order_id: str = "",
    /,
    *,
    journal: Path | None = None,
    config: ConfigPath | None = None,
    event: str = "",
    follower: str = "",
    json: bool = False,
) -> int:
    """Why an order is what it is, or why there was none: each step recomputed by the plain rule.

    Example: copyd explain --event last --follower f1 --journal var/journal

    Parameters
    ----------
    client_order_id
        The order.
    journal
        The journal's directory; default: the one of --config.
    config
        The configuration that names the journal.
    event
        A leader event (last, its journal number or its execution id; `copyd replay --decisions FILE` lists them),
    follower
        and whose decision on it.
    json
        JSON instead of text.
    """
    if bool(client_order_id) == bool(event and follower):
        raise UsageError("name either a client order id, or both --event and --follower")
    if journal is None:
        from copyd.yamlcheck import load_config

        journal = Path(load_config(config or DEFAULT_CONFIG).journal.path)
    result: int = _late("copyd.inspect", "explain")(journal, client_order_id, event, follower, json)
    return result


# --- Bench, Sim, Demo, Exchange: listed here for the help, dispatched in `main` -----------------------------------------


@app.command(group=BENCH, help_flags=[])
def bench(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Latency benchmarks with their conditions. Its own options: copyd bench --help

    Example: copyd bench fanout --followers 10000 --connections 8 --json out.json
    """
    return _delegate("bench", list(arguments))


@app.command(group=BENCH, help_flags=[])
def sim(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Seeded histories of every fault around the production core, judged by the truth. Its own options: copyd sim --help

    Example: copyd sim --seeds 0..20000
    """
    return _delegate("sim", list(arguments))


@app.command(group=DEMO, help_flags=[])
def demo(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """The whole thing on this machine, killed half way and proven at the end. Its own options: copyd demo --help

    Example: copyd demo --followers 1000 --seconds 20
    """
    return _delegate("demo", list(arguments))


@app.command(group=RUN, help_flags=[])
def exchange(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """The simulated exchange. Its own options: copyd exchange --help

    Example: copyd exchange --port 9470 --ws-port 9471 --control-port 9472
    """
    return _delegate("exchange", list(arguments))


# --- The frame around every command ------------------------------------------------------------------------


def _late(module: str, name: str) -> Any:
    """A function of a module imported only now."""
    return getattr(import_module(module), name)


def _delegate(command: str, arguments: list[str]) -> int:
    result = _late(*DELEGATED[command])(arguments)
    return int(result or 0)


def _missing_kernel(error: ImportError) -> str:
    """The sentence for an import that failed because the compiled part is missing or of another Python; else empty."""
    name, path = error.name or "", error.path or ""
    if name.startswith("copyd._fast") or "/_fast/" in path:
        return (
            f"the compiled part {name or path} is missing or was built for another Python: "
            "run `make build` in a source tree, or install copyd again"
        )
    return ""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; every error copyd raises on purpose is one message on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in DELEGATED:
            return _delegate(argv[0], argv[1:])
        result = app(argv, exit_on_error=False, print_error=True, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError:
        return UsageError.exit_code  # printed by cyclopts, with what it would have understood
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return error.exit_code
    except CopydError as error:
        kind = "" if isinstance(error, OperatorError) else f"{type(error).__name__}: "
        print(f"copyd: {kind}{error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        sentence = _missing_kernel(error)
        if not sentence:
            raise
        print(f"copyd: {sentence}", file=sys.stderr)
        return OperatorError.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away: `copyd config init | head`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
