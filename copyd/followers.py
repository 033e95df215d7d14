"""Followers' plans as they come in: ``followers.csv`` or ``followers.jsonl`` into validated `PlanSpec` rows.

A file is imported whole or not at all. Every bad row is named as ``file:line: column: problem``; decimals are strings and
become exact scaled integers (money 1e-8, factors 1e-6), never floats. A plan's own fields win over its preset's, the
preset's over the configuration's defaults.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from copyd.config import Config, LossPolicy, MinPolicy, OnInsufficient, PresetName, RatioSnapshot
from copyd.decimals import factor_ppm, factor_text, money_e8, money_text
from copyd.errors import ConfigError

Mode = Literal["proportional", "multiplier", "fixed_amount", "fixed_ratio", "risk_based"]
PlanState = Literal["active", "paused", "close_only"]

#: The index in each of these tuples is the code kernels and records use.
MODES: tuple[str, ...] = get_args(Mode)
RATIO_SNAPSHOTS: tuple[str, ...] = get_args(RatioSnapshot)
MIN_POLICIES: tuple[str, ...] = get_args(MinPolicy)
LOSS_POLICIES: tuple[str, ...] = get_args(LossPolicy)
ON_INSUFFICIENT: tuple[str, ...] = get_args(OnInsufficient)
PRESETS: tuple[str, ...] = get_args(PresetName)
STATES: tuple[str, ...] = get_args(PlanState)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
SYMBOL = re.compile(r"([a-z0-9_]{1,32}:)?[A-Z0-9_-]{2,32}", re.ASCII)  # a venue may stand before it

MONEY_MAX_E8 = 10**18 - 1
FILE_BYTES_MAX = 256 << 20
PROBLEMS_MAX = 100_000  # a file that is wrong in every cell still gets an answer in bounded memory

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
_Symbol = Annotated[str, Meta(pattern=r"^([a-z0-9_]{1,32}:)?[A-Z0-9_-]{2,32}$")]
_Money = Annotated[int, Meta(ge=0, le=MONEY_MAX_E8)]
_Bps = Annotated[int, Meta(ge=0, le=1_000_000)]


class PlanSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One copy plan with everything decided: presets and defaults applied, decimals as scaled integers.

    Money is 1e-8 of the quote asset, factors 1e-6, shares in basis points; 0 means "none" where a field says so.
    """

    follower: _Name
    leader: _Name
    account: _Name  # name of the credential that trades for it
    venue: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.@-]{0,63})?$")] = ""  # of the account; empty = the leader's
    allocation_e8: Annotated[int, Meta(gt=0, le=MONEY_MAX_E8)]
    mode: Mode
    multiplier_ppm: Annotated[int, Meta(ge=100_000, le=10_000_000)] = 1_000_000
    amount_e8: _Money = 0  # quote per leader order; fixed_amount only
    leverage: Annotated[int, Meta(ge=1, le=150)] = 1  # the follower's own, also set at the venue
    risk_bps: _Bps = 0  # of the allocation; risk_based only
    assumed_stop_bps: _Bps = 0  # 0 = none
    ratio_snapshot: RatioSnapshot = "position_open"
    min_policy: MinPolicy = "carry"
    raise_max_factor_ppm: Annotated[int, Meta(ge=1_000_000, le=100_000_000)] = 2_000_000
    on_insufficient: OnInsufficient = "scale"
    leverage_max: Annotated[int, Meta(ge=1, le=150)] = 10
    max_position_bps: _Bps = 3_000
    max_notional_symbol_e8: _Money = 0  # 0 = none
    max_notional_total_e8: _Money = 0  # 0 = none
    max_open_trades: Annotated[int, Meta(ge=0, le=10_000)] = 0  # 0 = none
    max_loss_per_trade_bps: _Bps = 200
    require_stop: bool = False
    total_loss_bps: Annotated[int, Meta(ge=0, le=10_000)] = 2_000  # of the allocation; 0 = no limit
    daily_loss_bps: Annotated[int, Meta(ge=0, le=10_000)] = 500  # of the equity at the reset of the day; 0 = no limit
    leader_drawdown_bps: Annotated[int, Meta(ge=0, le=10_000)] = 1_500  # of the leader's peak; 0 = no limit
    loss_policy: LossPolicy = "close_now"
    slippage_bps: Annotated[int, Meta(ge=0, le=10_000)] = 0  # 0 = by instrument class
    slippage_mid_bps: Annotated[int, Meta(ge=0, le=10_000)] = 0  # 0 = by instrument class
    instruments: tuple[_Symbol, ...] = ()  # empty = all
    preset: PresetName = "balanced"
    allow_netting: bool = False
    kyc_tier: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.@-]{0,63})?$")] = ""  # empty = not verified
    state: PlanState = "active"


class RowProblem(NamedTuple):
    """One thing wrong in an import file."""

    file: str
    line: int
    column: str
    text: str

    def __str__(self) -> str:
        column = f"{self.column}: " if self.column else ""
        return f"{self.file}:{self.line}: {column}{self.text}"


class _Bad(ValueError):
    """A cell that will not do; the text says why."""


# --- cells -------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 42 else text[:38] + '..."'


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise _Bad(f"expected text, got {_shown(value)}")
    if not NAME.fullmatch(value):
        raise _Bad(f"{_shown(value)} is not a name (letters, digits, _ . @ -, at most 64)")
    return value


def _money(value: Any) -> int:
    if not isinstance(value, str):
        raise _Bad(f'money must be a string, not the number {_shown(value)} (write "1000.00")')
    try:
        return money_e8(value)
    except ValueError as error:
        raise _Bad(f"{_shown(value)} is {error}") from None


def _positive_money(value: Any) -> int:
    amount = _money(value)
    if amount == 0:
        raise _Bad("must be above 0")
    return amount


def _factor(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if not isinstance(value, str):
            raise _Bad(f'a factor must be a string, not the number {_shown(value)} (write "1.5")')
        try:
            ppm = factor_ppm(value)
        except ValueError as error:
            raise _Bad(f"{_shown(value)} is {error}") from None
        if not low <= ppm <= high:
            raise _Bad(f"{value} is outside {factor_text(low)} to {factor_text(high)}")
        return ppm

    return parse


def _int(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 20:
            number = int(value)
        else:
            raise _Bad(f"expected a whole number, got {_shown(value)}")
        if not low <= number <= high:
            raise _Bad(f"{number} is outside {low} to {high}")
        return number

    return parse


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise _Bad(f"expected true or false, got {_shown(value)}")


def _choice(values: tuple[str, ...]) -> Callable[[Any], str]:
    known = frozenset(values)

    def parse(value: Any) -> str:
        if isinstance(value, str) and value in known:
            return value
        close = difflib.get_close_matches(str(value), values, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise _Bad(f"{_shown(value)} is not one of {' | '.join(values)}{hint}")

    return parse


def _instruments(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        symbols = value.replace(";", " ").split()
    elif isinstance(value, list):
        symbols = value
    else:
        raise _Bad(f"expected a list of symbols, got {_shown(value)}")
    for symbol in symbols:
        if not isinstance(symbol, str) or not SYMBOL.fullmatch(symbol):
            raise _Bad(f"{_shown(symbol)} is not a symbol")
    if len(set(symbols)) != len(symbols):
        raise _Bad("a symbol occurs twice")
    return tuple(symbols)


_BPS = _int(0, 1_000_000)

#: column in the file -> (field of PlanSpec, how a cell is read)
COLUMNS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "follower": ("follower", _name),
    "leader": ("leader", _name),
    "account": ("account", _name),
    "venue": ("venue", _name),
    "allocation": ("allocation_e8", _positive_money),
    "mode": ("mode", _choice(MODES)),
    "multiplier": ("multiplier_ppm", _factor(100_000, 10_000_000)),
    "amount": ("amount_e8", _money),
    "leverage": ("leverage", _int(1, 150)),
    "risk_bps": ("risk_bps", _BPS),
    "assumed_stop_bps": ("assumed_stop_bps", _BPS),
    "ratio_snapshot": ("ratio_snapshot", _choice(RATIO_SNAPSHOTS)),
    "min_policy": ("min_policy", _choice(MIN_POLICIES)),
    "raise_max_factor": ("raise_max_factor_ppm", _factor(1_000_000, 100_000_000)),
    "on_insufficient": ("on_insufficient", _choice(ON_INSUFFICIENT)),
    "leverage_max": ("leverage_max", _int(1, 150)),
    "max_position_bps": ("max_position_bps", _int(1, 1_000_000)),
    "max_notional_symbol": ("max_notional_symbol_e8", _money),
    "max_notional_total": ("max_notional_total_e8", _money),
    "max_open_trades": ("max_open_trades", _int(0, 10_000)),
    "max_loss_per_trade_bps": ("max_loss_per_trade_bps", _int(1, 1_000_000)),
    "require_stop": ("require_stop", _bool),
    "total_loss_bps": ("total_loss_bps", _int(0, 10_000)),
    "daily_loss_bps": ("daily_loss_bps", _int(0, 10_000)),
    "leader_drawdown_bps": ("leader_drawdown_bps", _int(0, 10_000)),
    "on_loss_stop": ("loss_policy", _choice(LOSS_POLICIES)),
    "slippage_bps": ("slippage_bps", _int(0, 10_000)),
    "slippage_mid_bps": ("slippage_mid_bps", _int(0, 10_000)),
    "instruments": ("instruments", _instruments),
    "preset": ("preset", _choice(PRESETS)),
    "allow_netting": ("allow_netting", _bool),
    "kyc_tier": ("kyc_tier", _name),
    "state": ("state", _choice(STATES)),
}
REQUIRED = ("follower", "leader", "allocation", "mode")
_COLUMN_OF = {field: column for column, (field, _) in COLUMNS.items()}


# --- plans -------------------------------------------------------------------------------------------------


def preset_fields(config: Config, preset: str) -> dict[str, Any]:
    """What a preset, and below it the configuration's defaults, give a plan that says nothing."""
    limits = config.presets.of(preset)
    return {
        "preset": preset,
        "leverage": config.copy.leverage,
        "ratio_snapshot": config.copy.ratio_snapshot,
        "min_policy": config.copy.min_policy,
        "raise_max_factor_ppm": config.copy.raise_max_factor_ppm,
        "on_insufficient": config.copy.on_insufficient,
        "leverage_max": limits.leverage_max,
        "max_position_bps": limits.max_position_bps,
        "max_notional_symbol_e8": limits.max_notional_symbol_e8,
        "max_notional_total_e8": limits.max_notional_total_e8,
        "max_open_trades": limits.max_open_trades,
        "max_loss_per_trade_bps": limits.max_loss_per_trade_bps,
        "require_stop": limits.require_stop,
        "total_loss_bps": limits.total_loss_bps,
        "daily_loss_bps": limits.daily_loss_bps,
        "leader_drawdown_bps": limits.leader_drawdown_bps,
        "loss_policy": limits.on_loss_stop,
        "slippage_bps": limits.slippage_bps,
        "slippage_mid_bps": limits.slippage_mid_bps,
    }


class _Rules:
    """The checks of one plan against the configuration, with what they need computed once per file."""

    def __init__(self, config: Config) -> None:
        self.leaders = {leader.id: leader for leader in config.leaders}
        self.leader_accounts = {leader.credential for leader in config.leaders}
        self.venues: dict[str, set[str]] = {venue.name: set() for venue in config.venues}
        for instrument in config.instruments:
            self.venues.setdefault(instrument.venue, set()).add(instrument.symbol)
        self.multiplier_min = factor_ppm(config.copy.multiplier_min)
        self.multiplier_max = factor_ppm(config.copy.multiplier_max)
        self.default_preset = config.copy.default_preset
        self.bases = {name: preset_fields(config, name) for name in PRESETS}

    def check(self, spec: PlanSpec) -> list[tuple[str, str]]:
        """(column, problem) for everything about this plan that no single cell can know."""
        found = []
        if spec.leader not in self.leaders:
            known = ", ".join(sorted(self.leaders)[:5])
            found.append(("leader", f"no leader is called {spec.leader} (known: {known})"))
        if spec.account in self.leader_accounts:
            text = f"{spec.account} is a leader's own account; a leader who copies would close a cycle (depth is 1)"
            found.append(("account", text))
        if spec.venue and spec.venue not in self.venues:
            found.append(("venue", f"no venue is called {spec.venue} (known: {', '.join(self.venues)})"))
        if spec.mode == "multiplier" and not self.multiplier_min <= spec.multiplier_ppm <= self.multiplier_max:
            low, high = factor_text(self.multiplier_min), factor_text(self.multiplier_max)
            text = f"{factor_text(spec.multiplier_ppm)} is outside the configured {low} to {high}"
            found.append(("multiplier", text))
        if spec.mode == "fixed_amount" and spec.amount_e8 == 0:
            found.append(("amount", "mode fixed_amount needs an amount above 0"))
        if spec.mode == "risk_based" and spec.risk_bps == 0:
            found.append(("risk_bps", "mode risk_based needs risk_bps above 0"))
        leader = self.leaders.get(spec.leader)
        venue = spec.venue or (leader.venue if leader is not None else "")
        if venue in self.venues:
            listed = self.venues[venue] | {f"{venue}:{symbol}" for symbol in self.venues[venue]}
            unknown = [symbol for symbol in spec.instruments if symbol not in listed]
            found += [("instruments", f"{symbol} is not in the configured instruments of {venue}") for symbol in unknown]
        return found


def _build(cells: Mapping[str, Any], rules: _Rules) -> tuple[PlanSpec | None, list[tuple[str, str]]]:
    """One row: the plan, or (column, problem) for each thing wrong. Empty cells are absent."""
    given: dict[str, Any] = {}
    found: list[tuple[str, str]] = []
    for column, value in cells.items():
        if value == "" or value is None:
            continue
        entry = COLUMNS.get(column)
        if entry is None:
            found.append((column, "unknown column" + _hint(column)))
            continue
        try:
            given[entry[0]] = entry[1](value)
        except _Bad as error:
            found.append((column, str(error)))
    for column in REQUIRED:
        if COLUMNS[column][0] not in given and not any(bad == column for bad, _ in found):
            found.append((column, "is required"))
    if found:
        return None, found
    fields = {**rules.bases[given.get("preset", rules.default_preset)], **given}
    fields.setdefault("account", fields["follower"])
    spec = PlanSpec(**fields)
    found = rules.check(spec)
    return (None, found) if found else (spec, [])


def _hint(column: str) -> str:
    close = difflib.get_close_matches(column.lower(), COLUMNS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _overlap(a: PlanSpec, b: PlanSpec) -> bool:
    return not a.instruments or not b.instruments or not set(a.instruments).isdisjoint(b.instruments)


def across(specs: Iterable[tuple[int, PlanSpec]], existing: Iterable[PlanSpec] = ()) -> list[tuple[int, str, str]]:
    """(line, column, problem) for rows that cannot stand beside each other or beside plans already there.

    A follower names one plan; two plans may trade one instrument on one account only when both allow netting
    (semantics 22).
    """
    found: list[tuple[int, str, str]] = []
    followers: dict[str, int] = {}
    accounts: dict[str, list[tuple[int, PlanSpec]]] = {}
    for spec in existing:
        accounts.setdefault(spec.account, []).append((0, spec))
    for line, spec in specs:
        first = followers.setdefault(spec.follower, line)
        if first != line:
            found.append((line, "follower", f"{spec.follower} is already on line {first}"))
            continue
        others = accounts.setdefault(spec.account, [])
        for other_line, other in others:
            if other.follower == spec.follower:
                continue  # the row replaces that plan
            if not (spec.allow_netting and other.allow_netting) and _overlap(spec, other):
                where = f"on line {other_line}" if other_line else f"used by plan {other.follower}"
                text = f"account {spec.account} is already {where} for the same instruments (set allow_netting on both)"
                found.append((line, "account", text))
                break
        others.append((line, spec))
    return found


# --- files -------------------------------------------------------------------------------------------------


def _csv_rows(name: str, text: str, problems: list[RowProblem]) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            problems.append(RowProblem(name, 1, "", "the file is empty"))
            return
        header = [column.strip() for column in header]
        for index, column in enumerate(header):
            if column not in COLUMNS:
                problems.append(RowProblem(name, 1, column or f"column {index + 1}", "unknown column" + _hint(column)))
            elif column in header[:index]:
                problems.append(RowProblem(name, 1, column, "this column occurs twice"))
        missing = [column for column in REQUIRED if column not in header]
        problems += [RowProblem(name, 1, column, "required column is missing") for column in missing]
        if problems:
            return
        line = reader.line_num + 1
        for cells in reader:
            if cells and cells[0].lstrip()[:1] != "#":
                if len(cells) != len(header):
                    text = f"{len(cells)} cells, but the header has {len(header)} columns"
                    problems.append(RowProblem(name, line, "", text))
                else:
                    yield line, {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(RowProblem(name, max(reader.line_num, 1), "", f"not CSV: {error}"))


class _Twice(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return row


def _jsonl_rows(name: str, text: str, problems: list[RowProblem]) -> Iterable[tuple[int, dict[str, Any]]]:
    decode = json.JSONDecoder(object_pairs_hook=_pairs).decode
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        try:
            row = decode(line)
        except _Twice as error:
            problems.append(RowProblem(name, number, str(error), "this field occurs twice"))
            continue
        except (ValueError, RecursionError) as error:
            words = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            problems.append(RowProblem(name, number, "", f"not JSON: {words}"))
            continue
        if not isinstance(row, dict):
            problems.append(RowProblem(name, number, "", "a line must be one JSON object"))
            continue
        yield number, row


def parse_followers(
    name: str, text: str, config: Config, existing: Iterable[PlanSpec] = ()
) -> tuple[list[PlanSpec], list[RowProblem]]:
    """The plans in ``text`` and every problem; the plans may only be used when there is none."""
    problems: list[RowProblem] = []
    rules = _Rules(config)
    rows = (_csv_rows if name.lower().endswith(".csv") else _jsonl_rows)(name, text.removeprefix("\ufeff"), problems)
    placed: list[tuple[int, PlanSpec]] = []
    for line, cells in rows:
        spec, found = _build(cells, rules)
        if spec is None:
            problems += [RowProblem(name, line, column, words) for column, words in found]
            if len(problems) > PROBLEMS_MAX:
                problems.append(RowProblem(name, line, "", "too many problems; the rest was not read"))
                break
        else:
            placed.append((line, spec))
    problems += [RowProblem(name, line, column, words) for line, column, words in across(placed, existing)]
    problems += [RowProblem(name, line, column, words) for line, column, words in above_tier(placed, existing, config)]
    if not placed and not problems:
        problems.append(RowProblem(name, 1, "", "no rows"))
    problems.sort(key=lambda problem: problem.line)
    return [spec for _, spec in placed], problems


def read_followers(path: Path | str, config: Config, existing: Iterable[PlanSpec] = ()) -> list[PlanSpec]:
    """The plans in a ``.csv``, ``.jsonl`` or ``.ndjson`` file. ConfigError naming every bad row, and then none is used."""
    path = Path(path)
    name = str(path)
    if path.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise ConfigError([f"{name}: not a .csv or .jsonl file"])
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError([f"{name}: larger than {FILE_BYTES_MAX >> 20} MiB"])
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read: {error.strerror}"]) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}:{line}: not UTF-8 text"]) from None
    specs, problems = parse_followers(name, text, config, existing)
    if problems:
        raise ConfigError([str(problem) for problem in problems])
    return specs


def above_tier(
    placed: Iterable[tuple[int, PlanSpec]], existing: Iterable[PlanSpec], config: Config
) -> list[tuple[int, str, str]]:
    """(line, column, problem) of plans with which a follower allocates more than his verification tier may, in all."""
    allocated: dict[str, int] = {}
    for spec in existing:
        allocated[spec.follower] = allocated.get(spec.follower, 0) + spec.allocation_e8
    found = []
    for line, spec in placed:
        allocated[spec.follower] = total = allocated.get(spec.follower, 0) + spec.allocation_e8
        try:
            most = config.kyc.allocation_max_e8(spec.kyc_tier)
        except KeyError:
            known = ", ".join(tier.name for tier in config.kyc.tiers) or "none"
            found.append((line, "kyc_tier", f"no tier is called {spec.kyc_tier} (known: {known})"))
            continue
        if most and total > most:
            tier = f"tier {spec.kyc_tier}" if spec.kyc_tier else "a follower who is not verified"
            found.append((line, "allocation", f"{money_text(total)} in all is above the {money_text(most)} of {tier}"))
    return found


def check_specs(specs: Iterable[PlanSpec], config: Config, existing: Iterable[PlanSpec] = ()) -> list[str]:
    """The same rules for plans that arrive as values (over the control socket); texts name the follower."""
    rules = _Rules(config)
    placed = list(enumerate(specs, 1))
    found = [f"{spec.follower}: {column}: {text}" for _, spec in placed for column, text in rules.check(spec)]
    by_line = dict(placed)
    found += [f"{by_line[line].follower}: {column}: {text}" for line, column, text in across(placed, existing)]
    found += [f"{by_line[line].follower}: {column}: {text}" for line, column, text in above_tier(placed, existing, config)]
    return found


def parse_plan(cells: Mapping[str, Any], config: Config) -> PlanSpec:
    """One plan from columns as in the files. ConfigError with every problem."""
    spec, found = _build(cells, _Rules(config))
    if spec is None:
        raise ConfigError([f"{column}: {text}" for column, text in found])
    return spec


#: What identifies a plan; changing one of these means another plan.
FIXED = ("follower", "leader", "account", "venue")


def parse_changes(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Columns to change -> PlanSpec fields. ConfigError with every problem. Apply with `apply_changes`."""
    changes: dict[str, Any] = {}
    found = []
    for column, value in cells.items():
        if column in FIXED:
            found.append(f"{column}: cannot be changed; stop this plan and add another")
        elif column not in COLUMNS:
            found.append(f"{column}: unknown column" + _hint(column))
        else:
            field, parse = COLUMNS[column]
            try:
                changes[field] = parse(value)
            except _Bad as error:
                found.append(f"{column}: {error}")
    if not cells:
        found.append("nothing to change")
    if found:
        raise ConfigError(found)
    return changes


def apply_changes(spec: PlanSpec, changes: Mapping[str, Any], config: Config) -> PlanSpec:
    """The plan with fields replaced; a changed preset brings its limits, fields given beside it win."""
    fields = dict(changes)
    if "preset" in fields:
        limits = preset_fields(config, fields["preset"])
        keep = ("leverage", "ratio_snapshot", "min_policy", "raise_max_factor_ppm", "on_insufficient")
        fields = {**{name: value for name, value in limits.items() if name not in keep}, **fields}
    changed = msgspec.convert({**msgspec.structs.asdict(spec), **fields}, PlanSpec)
    found = _Rules(config).check(changed)
    if found:
        raise ConfigError([f"{column}: {text}" for column, text in found])
    return changed


def plan_cells(spec: PlanSpec) -> dict[str, Any]:
    """A plan as one row of ``followers.jsonl``: reads back to the same plan."""
    cells: dict[str, Any] = {}
    for field, value in msgspec.structs.asdict(spec).items():
        column = _COLUMN_OF[field]
        if field.endswith("_e8"):
            cells[column] = money_text(value)
        elif field.endswith("_ppm"):
            cells[column] = factor_text(value)
        elif isinstance(value, tuple):
            cells[column] = list(value)
        else:
            cells[column] = value
    return cells
