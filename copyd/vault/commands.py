"""``copyd key``: the exchange keys of leaders and followers, sealed at rest. Thin: parse, ask the venue, keep, show.

A key and its secret come from a prompt or from standard input, never from the command line: that is seen by every process.
"""

from __future__ import annotations

import asyncio
import getpass
import json as json_text
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from copyd.errors import ConfigError, CopydError, RequestRefused, UsageError, VenueUnavailable

if TYPE_CHECKING:
    from copyd.config import Config
    from copyd.credentials import Credential
    from copyd.journal.errors import JournalDamaged
    from copyd.vault.envelope import Envelope
    from copyd.vault.policy import Override, Role, Verdict
    from copyd.vault.store import Check, Row

STDIN_BYTES_MAX = 64 << 10
#: Columns of a table that goes to a file or a pipe: nothing of it is cut.
WIDE = 400
DAMAGED = 65

app = App(name="key", help="Exchange keys, sealed: add, test, rotate, revoke.", default_parameter=Parameter(negative=""))

ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"])]
DEFAULT_CONFIG = Path("/etc/copyd/copyd.yaml")
#: Where somebody might write a secret on the command line: taken, so that it can be refused without being shown.
Stray = Annotated[str, Parameter(show=False)]
StrayKey = Annotated[str, Parameter(name=["--key", "--api-key", "--apikey"], show=False)]
StraySecret = Annotated[str, Parameter(name=["--secret", "--api-secret", "--secret-key", "--private-key"], show=False)]
StrayPhrase = Annotated[str, Parameter(name=["--passphrase", "--password"], show=False)]


def _refuse_strays(*strays: Any) -> None:
    if any(strays):
        raise UsageError(
            "a key is never taken from the command line, where every process can read it: give it at the prompt or on standard "
            "input, and replace the one that stood there")


@app.command
def add(
    name: str,
    /,
    *more: Stray,
    venue: str,
    account: str = "",
    allow_unbound_ip: str = "",
    config: ConfigPath = DEFAULT_CONFIG,
    key: StrayKey = "",
    secret: StraySecret = "",
    passphrase: StrayPhrase = "",
) -> int:
    """Keep a new key. Its venue is asked first what it may do: one that can withdraw or transfer is refused and not kept.

    Key, secret and passphrase are asked for; or they come on standard input as one JSON object, {"key": ..., "secret": ...}.

    Example: copyd key add bob --venue binance_usdm < bob.json

    Parameters
    ----------
    name
        The name plans and leaders call it by.
    venue
        Kind of venue, as in the configuration.
    account
        The venue's id of the account, where it should be this one.
    allow_unbound_ip
        Why this key may be used though it is bound to no address. Its orders are capped (keys.unbound_notional_cap).
    config
        The configuration.
    """
    from copyd.vault.store import open_vault

    _refuse_strays(more, key, secret, passphrase)
    loaded = _begin(config)
    credential = _read_key(name)
    override = _override(loaded, allow_unbound_ip)
    with open_vault(loaded.journal.path, loaded.keys, create=True) as vault:
        row = vault.row_or_none(name)
        if row is not None and row.current is not None:
            raise RequestRefused(f"key {name} is already there; `copyd key rotate {name}` replaces it")
    found = _ask(loaded, venue, [(credential, _role(loaded, name), override, account)])[name]
    _refuse(name, found)
    with open_vault(loaded.journal.path, loaded.keys, create=True) as vault:
        vault.add(
            credential, venue=venue, account=account or found.account_id, now_ns=_now_ns(), check=found.check,
            override=found.override(allow_unbound_ip), cap_e8=found.cap_e8)
    print(f"key {name} is kept" + _noted(found))
    return 0


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    venue: str,
    allow_unbound_ip: str = "",
    config: ConfigPath = DEFAULT_CONFIG,
) -> int:
    """Keep every key of a file of JSON lines (name, key, secret). Exit 1 when one was refused; the others are kept.

    The file must be yours and of mode 0600. Names that are kept already are passed over, so it can be run again.

    Example: copyd key import keys.jsonl --venue binance_usdm

    Parameters
    ----------
    file
        The keys.
    venue
        Kind of venue, as in the configuration.
    allow_unbound_ip
        Why these keys may be used though they are bound to no address.
    config
        The configuration.
    """
    import os

    from copyd.credentials import parse_credentials, read_guarded
    from copyd.vault.store import Row, open_vault

    loaded = _begin(config)
    entries, problems = parse_credentials(str(file), read_guarded(file, {os.geteuid()}))
    if problems:
        raise ConfigError(problems)
    override = _override(loaded, allow_unbound_ip)
    with open_vault(loaded.journal.path, loaded.keys, create=True) as vault:
        kept = {name for name, row in vault.rows() if isinstance(row, Row) and row.current is not None}
    todo = [entry for entry in entries if entry.name not in kept]
    done = refused = 0
    with _progress("keys", len(todo)) as advance:

        def one(name: str, found: _Found) -> None:
            nonlocal done, refused
            advance(1)
            if found.refusal:
                refused += 1
                print(f"key {name} is refused: {found.refusal}", file=sys.stderr)
                return
            with open_vault(loaded.journal.path, loaded.keys) as vault:
                vault.add(
                    by_name[name], venue=venue, account=found.account_id, now_ns=_now_ns(), check=found.check,
                    override=found.override(allow_unbound_ip), cap_e8=found.cap_e8)
            done += 1

        by_name = {entry.name: entry for entry in todo}
        _ask(loaded, venue, [(entry, _role(loaded, entry.name), override, "") for entry in todo], one)
    print(f"{done} keys are kept, {len(entries) - len(todo)} were there, {refused} refused")
    return 1 if refused else 0


@app.command(name="list")
def list_(*, json: bool = False, config: ConfigPath = DEFAULT_CONFIG) -> int:
    """Every key: its venue, account, fingerprint, version, and what the last check found. Never a key or a secret.

    Example: copyd key list

    Parameters
    ----------
    json
        JSON instead of a table.
    config
        The configuration.
    """
    from copyd.journal.keyring import exists
    from copyd.vault.store import open_keys

    loaded = _begin(config)
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    if exists(loaded.journal.path):
        with open_keys(loaded.journal.path) as keys:
            for name, row in keys.rows():
                if isinstance(row, CopydError):
                    damaged.append(str(row))
                    found.append({"name": name, "state": "damaged"})
                else:
                    found.append(_shown(name, row))
    if json:
        print(json_text.dumps(found))
    else:
        _table(found)
    for problem in damaged:
        print(problem, file=sys.stderr)
    return DAMAGED if damaged else 0


@app.command
def test(*names: str, json: bool = False, config: ConfigPath = DEFAULT_CONFIG) -> int:
    """Open keys and ask their venues what they may do. Exit 1 when one is refused, 69 when a venue does not answer.

    A key that was rotated and not tested yet is tested first; when it is good, it takes over.

    Example: copyd key test bob

    Parameters
    ----------
    names
        Which; default: all in use.
    json
        JSON instead of lines.
    config
        The configuration.
    """
    from copyd.vault.store import Row, open_keys

    loaded = _begin(config)
    with open_keys(loaded.journal.path) as keys:
        rows = dict(keys.rows())
    missing = [name for name in names if name not in rows]
    if missing:
        raise RequestRefused(f"there is no key {', '.join(missing)}")
    wanted = {
        name: row for name, row in rows.items()
        if name in names or (not names and not (isinstance(row, Row) and row.current is None))
    }  # fmt: skip
    results: dict[str, tuple[int, str]] = {}

    def said(name: str, code: int, text: str) -> None:
        results[name] = (code, text)
        if not json:
            print(f"{name}: {text}", file=sys.stderr if code else sys.stdout)

    _test(loaded, wanted, said)
    if json:
        print(json_text.dumps([{"name": name, "result": results[name][1], "good": not results[name][0]} for name in wanted]))
    codes = {code for code, _ in results.values()}
    return next((code for code in (DAMAGED, ConfigError.exit_code, 1, VenueUnavailable.exit_code) if code in codes), 0)


@app.command
def rotate(
    name: str,
    /,
    *more: Stray,
    allow_unbound_ip: str = "",
    config: ConfigPath = DEFAULT_CONFIG,
    key: StrayKey = "",
    secret: StraySecret = "",
    passphrase: StrayPhrase = "",
) -> int:
    """Replace a key by a new one of the same account. The old one is destroyed when the new one was tested, not before.

    A running daemon takes it into use at `copyd ctl reload`, or by itself at its next look at the keys: take the old one back at
    the venue after that.

    Example: copyd key rotate bob < bob.json

    Parameters
    ----------
    name
        Which.
    allow_unbound_ip
        Why the new key may be used though it is bound to no address.
    config
        The configuration.
    """
    from copyd.vault.store import open_vault

    _refuse_strays(more, key, secret, passphrase)
    loaded = _begin(config)
    override = _override(loaded, allow_unbound_ip)
    with open_vault(loaded.journal.path, loaded.keys) as vault:
        facts = vault.in_use(name).facts
    credential = _read_key(name)
    try:
        found = _ask(loaded, facts.venue, [(credential, _role(loaded, name), override, facts.account)])[name]
    except VenueUnavailable as error:
        with open_vault(loaded.journal.path, loaded.keys) as vault:
            cap = override.cap_e8 if override is not None else 0
            vault.follow(credential, now_ns=_now_ns(), override=allow_unbound_ip.strip(), cap_e8=cap)
        raise VenueUnavailable(f"{error}; the new key waits beside the old one for `copyd key test {name}`") from None
    if found.refusal:
        raise RequestRefused(f"the new key of {name} is refused and not kept, the old one stays: {found.refusal}")
    with open_vault(loaded.journal.path, loaded.keys) as vault:
        row = vault.follow(
            credential, now_ns=_now_ns(), override=found.override(allow_unbound_ip), cap_e8=found.cap_e8)
        assert row.following is not None
        vault.promote(name, row.following.facts.version, found.check)
    print(f"key {name} is replaced" + _noted(found))
    return 0


@app.command(name="rotate-kek")
def rotate_kek(*, config: ConfigPath = DEFAULT_CONFIG) -> int:
    """Wrap every key by the KEK in force (keys.kek). Those that keys.kek_before wrapped are opened with it; no secret is touched.

    Killed at any point, run it again. When it says that all are done, keys.kek_before can be taken away.

    Example: copyd key rotate-kek

    Parameters
    ----------
    config
        The configuration.
    """
    from copyd.vault.store import open_vault

    loaded = _begin(config)
    with open_vault(loaded.journal.path, loaded.keys) as vault, _progress("keys", len(vault.rows())) as advance:
        done, already, problems, scrubbed = vault.rewrap_all(advance)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not scrubbed:
        print("a reader keeps data keys under the KEK before in the file: run it again", file=sys.stderr)
    total = done + already + len(problems)
    print(f"{done} of {total} keys wrapped anew, {already} were so already, {len(problems)} could not be")
    return 0 if scrubbed and not problems else DAMAGED


@app.command
def revoke(name: str, /, *, reason: str, config: ConfigPath = DEFAULT_CONFIG) -> int:
    """Destroy a key; the reason stays. Take it back at the venue as well.

    A running daemon stops signing with it at `copyd ctl reload`, or by itself at its next look at the keys, exits too: close what
    the account holds first.

    Example: copyd key revoke bob --reason "left on 2026-11-20"

    Parameters
    ----------
    name
        Which.
    reason
        Why.
    config
        The configuration.
    """
    from copyd.vault.store import open_keys

    loaded = _begin(config)
    if not reason.strip():
        raise UsageError("--reason: say why")
    with open_keys(loaded.journal.path) as keys:
        keys.revoke(name, reason.strip(), _now_ns())
    print(f"key {name} is revoked")
    return 0


# --- what they share ---------------------------------------------------------------------------------------------------


class _Found:
    """What a venue said of a key: a refusal for a person ("" = accepted), and what is to be kept of it."""

    def __init__(self, check: Check, refusal: str, verdict: Verdict | None = None, account_id: str = "") -> None:
        self.check, self.refusal, self.account_id = check, refusal, account_id
        self.notes = verdict.notes if verdict is not None else ()
        self.cap_e8 = verdict.cap_e8 if verdict is not None else 0

    def override(self, reason: str) -> str:
        """The reason it is accepted for, where one was needed."""
        from copyd.vault.policy import UNBOUND_ALLOWED

        return reason.strip() if UNBOUND_ALLOWED in self.notes else ""


def _begin(config: Path) -> Config:
    """Nothing of this process reaches a dump; then the configuration."""
    from copyd.vault.hygiene import no_dumps
    from copyd.yamlcheck import load_config

    no_dumps()
    return load_config(config)


def _now_ns() -> int:
    from copyd.runtime.clock import SystemClock

    return SystemClock().now_ns()


def _role(config: Config, name: str) -> Role:
    return "leader" if name in {leader.credential for leader in config.leaders} else "follower"


def _override(config: Config, reason: str) -> Override | None:
    from copyd.decimals import money_e8
    from copyd.vault.policy import Override

    return Override(reason=reason, cap_e8=money_e8(config.keys.unbound_notional_cap)) if reason.strip() else None


def _read_key(name: str) -> Credential:
    """From the prompt on a terminal, else one JSON object from standard input. Problems quote nothing."""
    from copyd.credentials import parse_credentials

    if sys.stdin.isatty():
        row: Any = {"key": getpass.getpass(f"API key of {name}: "), "secret": getpass.getpass("Secret: ")}
        phrase = getpass.getpass("Passphrase (empty where the venue has none): ")
        row |= {"passphrase": phrase} if phrase else {}
    else:
        text = sys.stdin.read(STDIN_BYTES_MAX + 1)
        try:
            row = json_text.loads(text) if len(text) <= STDIN_BYTES_MAX else None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError('standard input: not one JSON object like {"key": "...", "secret": "..."}')
        if row.setdefault("name", name) != name:
            raise UsageError(f"standard input: another name than {name} stands there")
    entries, problems = parse_credentials("the key", json_text.dumps({**row, "name": name}).encode())
    if problems:
        raise UsageError("; ".join(problems).replace("the key:1: ", "the key: "))
    return entries[0]


def _ask(
    config: Config,
    venue: str,
    keys: list[tuple[Credential, Role, Override | None, str]],
    each: Callable[[str, _Found], None] | None = None,
) -> dict[str, _Found]:
    """What a venue says of keys, one after the other; ``VenueUnavailable`` when it does not answer."""
    from copyd.runtime.clock import SystemClock
    from copyd.vault.checks import REFUSALS, RIGHTS_OF, key_of, problem_of, venue_of
    from copyd.vault.policy import judge, sentence
    from copyd.vault.store import Check
    from copyd.venues.common.activation import may_pass
    from copyd.venues.common.rest import RestError

    clock = SystemClock()

    async def asked() -> dict[str, _Found]:
        reader = RIGHTS_OF[venue](venue_of(config, venue), clock.now_ns)
        try:
            await reader.open()
        except REFUSALS as error:
            raise VenueUnavailable(problem_of(error)) from None
        out = {}
        try:
            for credential, role, override, account in keys:
                now = clock.now_ns()
                try:
                    rights = await reader.rights(key_of(credential))
                except REFUSALS as error:
                    problem = problem_of(error)
                    if isinstance(error, RestError) and may_pass(error):
                        raise VenueUnavailable(problem) from None  # a venue that is too busy has said nothing about the key
                    out[credential.name] = _Found(Check(ts_ns=now, problem=problem), f"the venue says {problem}")
                else:
                    verdict = judge(rights, role, override=override, account=account, now_ms=now // 1_000_000)
                    check = Check(
                        ts_ns=now, reasons=verdict.reasons, moves_funds=rights.moves_funds, ip_bound=rights.ip_bound)
                    out[credential.name] = _Found(check, sentence(verdict, rights), verdict, rights.account_id)
                if each is not None:
                    each(credential.name, out[credential.name])
        finally:
            await reader.close()
        return out

    venue_of(config, venue)
    return asyncio.run(asked())


def _refuse(name: str, found: _Found) -> None:
    if found.refusal:
        raise RequestRefused(f"key {name} is refused and not kept: {found.refusal}")


def _noted(found: _Found) -> str:
    return f" ({', '.join(found.notes)})" if found.notes else ""


def _test(config: Config, rows: Mapping[str, Row | JournalDamaged], said: Callable[[str, int, str], None]) -> None:
    """Test what stands under each name: ``said(name, exit code, text)``. A key that waits takes over when it is good."""
    from copyd.credentials import Credential
    from copyd.vault.policy import Override
    from copyd.vault.store import Row, open_vault

    envelopes: list[tuple[str, Envelope]] = []
    for name, row in rows.items():
        envelope = (row.following or row.current) if isinstance(row, Row) else None
        if envelope is not None:
            envelopes.append((name, envelope))
        else:
            said(name, DAMAGED if not isinstance(row, Row) else 1, str(row) if not isinstance(row, Row) else "was revoked")
    facts_of = {name: envelope.facts for name, envelope in envelopes}
    by_venue: dict[str, list[tuple[Credential, Role, Override | None, str]]] = {}
    with open_vault(config.journal.path, config.keys) as vault:
        for name, opened in vault.open_many(envelopes):
            facts = facts_of[name]
            if not isinstance(opened, Credential):
                said(name, opened.exit_code, str(opened))
                continue
            override = Override(reason=facts.override, cap_e8=facts.cap_e8) if facts.override else None
            by_venue.setdefault(facts.venue, []).append((opened, _role(config, name), override, facts.account))
    for venue, asked in by_venue.items():
        told: set[str] = set()

        def one(name: str, found: _Found, told: set[str] = told) -> None:
            told.add(name)
            _tested(config, name, facts_of[name].version, found)
            said(name, 1 if found.refusal else 0, f"refused: {found.refusal}" if found.refusal else f"good{_noted(found)}")

        try:
            _ask(config, venue, asked, one)
        except (VenueUnavailable, ConfigError) as error:
            for credential, *_ in asked:
                if credential.name not in told:
                    said(credential.name, error.exit_code, str(error))


def _tested(config: Config, name: str, version: int, found: _Found) -> None:
    """Keep what a test found: a key that waited takes over or is destroyed, for one in use it is noted."""
    from copyd.vault.store import open_keys

    with open_keys(config.journal.path) as keys:
        row = keys.row_or_none(name)
        if row is None or row.following is None or row.following.facts.version != version:
            keys.note({name: (version, found.check)})
        elif found.refusal:
            keys.drop_following(name, version)
        else:
            keys.promote(name, version, found.check)


def _shown(name: str, row: Row) -> dict[str, Any]:
    """A row for people and tools; nothing of it is secret."""
    facts, check = row.facts, row.check
    out: dict[str, Any] = {
        "name": name, "venue": facts.venue if facts else "", "account": facts.account if facts else "",
        "fingerprint": facts.fingerprint if facts else "", "version": facts.version if facts else 0,
        "added": _time(facts.added_ns) if facts else "", "checked": _time(check.ts_ns) if check else "",
        "ip_bound": check.ip_bound if check else None, "state": _state(row),
    }  # fmt: skip
    if facts is not None and facts.override:
        out |= {"unbound_allowed": facts.override, "notional_cap_e8": facts.cap_e8}
    if row.following is not None:
        out["following"] = {"version": row.following.facts.version, "fingerprint": row.following.facts.fingerprint}
    if row.tombstone is not None:
        out |= {"revoked": _time(row.tombstone.ts_ns), "reason": row.tombstone.reason}
    if row.current is not None:
        out["kek"] = row.current.kek
    return out


def _state(row: Row) -> str:
    if row.tombstone is not None:
        return "revoked"
    if row.check is not None and row.check.problem:
        return f"not checked: {row.check.problem.partition(':')[0]}"
    if row.check is not None and row.check.reasons:
        return "refused: " + ", ".join(row.check.reasons)
    return "good, another waits" if row.following is not None else "good"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from copyd._fast.decimals import format_scaled

    if not found:
        print("no keys")
        return
    columns = ("name", "venue", "account", "fingerprint", "version", "added", "checked", "ip_bound", "state")
    table = Table(*columns, box=None, pad_edge=False)
    words = {True: "yes", False: "no", None: "-"}
    for row in found:
        state = row["state"]
        if "unbound_allowed" in row:
            cap = format_scaled(row["notional_cap_e8"], 8).rstrip("0").rstrip(".")
            state += f" (unbound: {row['unbound_allowed']}; orders up to {cap})"
        if "reason" in row:
            state += f" ({row['reason']})"
        cells = [str(row.get(name, "")) for name in columns[:-2]]
        table.add_row(*cells, words[row.get("ip_bound")], state)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
