"""Follower files: exact values, presets, and every bad row named with none imported."""

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.config import KycConfig, KycTier, LeaderConfig
from copyd.configfile import example
from copyd.errors import ConfigError
from copyd.followers import (
    COLUMNS,
    MODES,
    PlanSpec,
    apply_changes,
    check_specs,
    parse_changes,
    parse_followers,
    parse_plan,
    plan_cells,
    read_followers,
)

CONFIG = example()
BASE = {"follower": "f1", "leader": "alice", "allocation": "1000.00", "mode": "proportional"}


def _problems(name, text, config=CONFIG):
    _, problems = parse_followers(name, text, config)
    return [str(problem) for problem in problems]


def _jsonl(*rows):
    return "\n".join(json.dumps({**BASE, **row}) for row in rows)


def test_decimals_become_exact_integers_and_the_rest_comes_from_preset_and_defaults():
    spec = parse_plan({**BASE, "mode": "multiplier", "multiplier": "1.5", "max_notional_total": "0.00000001"}, CONFIG)
    assert spec.allocation_e8 == 100_000_000_000
    assert spec.multiplier_ppm == 1_500_000
    assert spec.max_notional_total_e8 == 1
    assert spec.account == "f1"
    assert spec.leverage == CONFIG.copy.leverage
    assert spec.preset == "balanced"
    assert (spec.max_position_bps, spec.max_loss_per_trade_bps) == (3_000, 200)


def test_an_explicit_field_wins_over_the_preset():
    spec = parse_plan({**BASE, "preset": "conservative", "leverage_max": 7, "slippage_bps": 0}, CONFIG)
    assert spec.leverage_max == 7
    assert spec.slippage_bps == 0
    assert spec.max_position_bps == CONFIG.presets.conservative.max_position_bps


def test_a_csv_and_a_jsonl_of_the_same_plans_are_the_same():
    text = (
        "follower,leader,allocation,mode,multiplier,amount,risk_bps,instruments,allow_netting,state\n"
        "f1,alice,1000.5,multiplier,1.25,,,BTCUSDT;ETHUSDT,false,\n"
        "# a remark\n"
        "f2,alice,20,fixed_amount,,200,,,true,paused\n"
        "\n"
        '"f3",alice,20,risk_based,,,100,"BTCUSDT SOLUSDT",,close_only\n'
    )
    rows = _jsonl(
        {
            "allocation": "1000.5",
            "mode": "multiplier",
            "multiplier": "1.25",
            "instruments": ["BTCUSDT", "ETHUSDT"],
            "allow_netting": False,
        },
        {"follower": "f2", "allocation": "20", "mode": "fixed_amount", "amount": "200", "allow_netting": True, "state": "paused"},
        {
            "follower": "f3",
            "allocation": "20",
            "mode": "risk_based",
            "risk_bps": 100,
            "instruments": ["BTCUSDT", "SOLUSDT"],
            "state": "close_only",
        },
    )
    from_csv, problems = parse_followers("f.csv", "\ufeff" + text.replace("\n", "\r\n"), CONFIG)
    assert not problems
    assert from_csv == parse_followers("f.jsonl", rows, CONFIG)[0]


def test_every_bad_row_is_named_with_line_and_column(tmp_path):
    rows = [
        BASE,
        {**BASE, "follower": "f2", "allocation": 1000.0},
        {**BASE, "follower": "f3", "allocation": "0"},
        {**BASE, "follower": "f4", "allocation": "1e3"},
        {**BASE, "follower": "f5", "mode": "proportionl"},
        {**BASE, "follower": "f6", "leader": "bob"},
        {**BASE, "follower": "f 7"},
        {**BASE, "follower": "f8", "multiplyer": "2"},
        {**BASE, "follower": "f9", "mode": "multiplier", "multiplier": "3"},
        {**BASE, "follower": "f10", "mode": "fixed_amount"},
        {**BASE, "follower": "f11", "mode": "risk_based"},
        {**BASE, "follower": "f12", "instruments": ["BTCUSDT", "DOGEUSDT"]},
        {**BASE, "follower": "f13", "account": "alice"},
        {**BASE, "follower": "f14", "leverage": 151, "require_stop": "yes"},
        {"follower": "f15"},
        BASE,
        {**BASE, "follower": "f17", "account": "f1"},
        {**BASE, "follower": "f18", "leverage": True},
    ]
    path = tmp_path / "followers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"follower":\n[1]\n{"follower":"x","follower":"y"}\n')
    with pytest.raises(ConfigError) as caught:
        read_followers(path, CONFIG)
    expected = [
        (2, "allocation: money must be a string, not the number 1000.0"),
        (3, "allocation: must be above 0"),
        (4, 'allocation: "1e3" is not a plain decimal'),
        (5, 'mode: "proportionl" is not one of'),
        (6, "leader: no leader is called bob (known: alice)"),
        (7, 'follower: "f 7" is not a name'),
        (8, "multiplyer: unknown column (did you mean multiplier?)"),
        (9, "multiplier: 3 is outside the configured 0.5 to 2"),
        (10, "amount: mode fixed_amount needs an amount"),
        (11, "risk_bps: mode risk_based needs risk_bps"),
        (12, "instruments: DOGEUSDT is not in the configured instruments"),
        (13, "account: alice is a leader's own account"),
        (14, "leverage: 151 is outside 1 to 150"),
        (14, 'require_stop: expected true or false, got "yes"'),
        (15, "leader: is required"),
        (15, "allocation: is required"),
        (15, "mode: is required"),
        (16, "follower: f1 is already on line 1"),
        (17, "account: account f1 is already on line 1"),
        (18, "leverage: expected a whole number, got true"),
        (19, "not JSON"),
        (20, "a line must be one JSON object"),
        (21, "follower: this field occurs twice"),
    ]
    found = caught.value.problems
    assert len(found) == len(expected), "\n".join(found)
    for problem, (line, words) in zip(found, expected, strict=True):
        assert problem.startswith(f"{path}:{line}: {words}"), problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "f.csv:1: the file is empty"),
        ("follower,leader,allocation,mode\n", "f.csv:1: no rows"),
        ("follower,leader,allocation,mod\n", "f.csv:1: mod: unknown column (did you mean mode?)"),
        ("follower,leader,allocation\n", "f.csv:1: mode: required column is missing"),
        ("follower,follower,leader,allocation,mode\n", "f.csv:1: follower: this column occurs twice"),
        ("follower,leader,allocation,mode\nf1,alice,1000\n", "f.csv:2: 3 cells, but the header has 4 columns"),
        ("follower,leader,allocation,mode\nf1,alice,1,000,proportional\n", "f.csv:2: 5 cells"),
        ('follower,leader,allocation,mode\nf1,alice,1000,"prop\n', "not CSV"),
    ],
)
def test_a_csv_that_is_none_is_named(text, words):
    assert any(words in problem for problem in _problems("f.csv", text)), _problems("f.csv", text)


def test_a_quoted_cell_over_two_lines_does_not_shift_the_line_numbers():
    text = 'follower,leader,allocation,mode,instruments\nf1,alice,1,proportional,"BTCUSDT\nETHUSDT"\nf2,bob,1,proportional,\n'
    assert [problem.split(" ")[0] for problem in _problems("f.csv", text)] == ["f.csv:4:"]


def test_two_plans_share_an_account_only_by_netting_or_by_different_instruments():
    """Semantics 22."""
    apart = _jsonl({"account": "a", "instruments": ["BTCUSDT"]}, {"follower": "f2", "account": "a", "instruments": ["ETHUSDT"]})
    netting = _jsonl({"account": "a", "allow_netting": True}, {"follower": "f2", "account": "a", "allow_netting": True})
    one_sided = _jsonl({"account": "a", "allow_netting": True}, {"follower": "f2", "account": "a"})
    assert _problems("f.jsonl", apart) == []
    assert _problems("f.jsonl", netting) == []
    assert len(_problems("f.jsonl", one_sided)) == 1


def test_plans_already_there_count_but_may_be_replaced():
    there = [parse_plan({**BASE, "account": "a"}, CONFIG)]
    again = parse_plan({**BASE, "account": "a", "allocation": "5"}, CONFIG)
    other = parse_plan({**BASE, "follower": "f2", "account": "a"}, CONFIG)
    assert check_specs([again], CONFIG, there) == []
    assert check_specs([other], CONFIG, there) == [
        "f2: account: account a is already used by plan f1 for the same instruments (set allow_netting on both)"
    ]


def test_a_leader_who_copies_would_close_a_cycle():
    """Semantics 15: depth is 1."""
    leaders = (*CONFIG.leaders, LeaderConfig(id="bob", venue="binance", credential="bob-key"))
    config = msgspec.structs.replace(CONFIG, leaders=leaders)
    assert any("cycle" in problem for problem in _problems("f.jsonl", _jsonl({"account": "bob-key"}), config))


def test_ten_thousand_rows_are_all_read_or_all_named():
    good = _jsonl(*({"follower": f"f{i}", "mode": MODES[i % 5], "amount": "5", "risk_bps": 10} for i in range(10_000)))
    began = time.perf_counter()
    specs, problems = parse_followers("f.jsonl", good, CONFIG)
    print(f"10,000 rows in {time.perf_counter() - began:.3f} s")
    assert (len(specs), problems) == (10_000, [])
    bad = good.replace('"1000.00"', "1000.00")
    assert len(parse_followers("f.jsonl", bad, CONFIG)[1]) == 10_000


def test_other_files_are_refused_with_a_sentence(tmp_path):
    for name, data, words in (
        ("f.xlsx", b"", "not a .csv or .jsonl"),
        ("f.csv", b"\xff\xfe", "f.csv:1: not UTF-8"),
        ("none.csv", None, "cannot be read"),
    ):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ConfigError, match=words):
            read_followers(path, CONFIG)


def test_changes_are_parsed_like_rows_and_cannot_move_a_plan():
    spec = parse_plan(BASE, CONFIG)
    changed = apply_changes(spec, parse_changes({"allocation": "2000", "preset": "aggressive", "leverage_max": "20"}), CONFIG)
    assert changed.allocation_e8 == 200_000_000_000
    assert changed.leverage_max == 20
    assert changed.max_position_bps == CONFIG.presets.aggressive.max_position_bps
    with pytest.raises(ConfigError) as caught:
        parse_changes({"leader": "bob", "alocation": "1", "leverage": "x"})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="fixed_amount needs"):
        apply_changes(spec, parse_changes({"mode": "fixed_amount"}), CONFIG)


def test_every_field_of_a_plan_has_a_column():
    assert {field for field, _ in COLUMNS.values()} == set(PlanSpec.__struct_fields__)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,20}", fullmatch=True)
MONEY = st.integers(0, 10**18 - 1)
PLANS = st.builds(
    PlanSpec,
    follower=NAMES,
    leader=st.just("alice"),
    account=NAMES.filter(lambda name: name != "alice"),
    allocation_e8=st.integers(1, 10**18 - 1),
    mode=st.sampled_from(MODES),
    multiplier_ppm=st.integers(500_000, 2_000_000),
    amount_e8=st.integers(1, 10**18 - 1),
    leverage=st.integers(1, 150),
    risk_bps=st.integers(1, 10_000),
    assumed_stop_bps=st.integers(0, 10_000),
    ratio_snapshot=st.sampled_from(["position_open", "each_order", "follow"]),
    min_policy=st.sampled_from(["carry", "skip", "raise"]),
    raise_max_factor_ppm=st.integers(1_000_000, 100_000_000),
    on_insufficient=st.sampled_from(["scale", "skip"]),
    leverage_max=st.integers(1, 150),
    max_position_bps=st.integers(1, 10_000),
    max_notional_symbol_e8=MONEY,
    max_notional_total_e8=MONEY,
    max_open_trades=st.integers(0, 100),
    max_loss_per_trade_bps=st.integers(1, 10_000),
    require_stop=st.booleans(),
    slippage_bps=st.integers(0, 10_000),
    slippage_mid_bps=st.integers(0, 10_000),
    instruments=st.lists(st.sampled_from(["BTCUSDT", "ETHUSDT"]), unique=True).map(tuple),
    preset=st.sampled_from(["conservative", "balanced", "aggressive"]),
    allow_netting=st.booleans(),
    state=st.sampled_from(["active", "paused", "close_only"]),
)


@given(PLANS)
@settings(max_examples=150, deadline=None)
def test_a_plan_written_out_reads_back_to_the_same_plan(spec):
    """As a row of a file and as JSON on the control socket."""
    assert parse_plan(plan_cells(spec), CONFIG) == spec
    assert msgspec.json.decode(msgspec.json.encode(spec), type=PlanSpec) == spec


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_arbitrary_text_gives_problems_and_never_an_exception(text):
    for name in ("f.csv", "f.jsonl"):
        specs, problems = parse_followers(name, text, CONFIG)
        assert problems or specs


def test_allocation_is_capped_by_verification_tier(tmp_path):
    """All plans of a follower together; one whose record names no tier is held to the limit of the unverified."""
    kyc = KycConfig(
        tiers=(KycTier(name="basic", allocation_max="5000"), KycTier(name="full", allocation_max="0")),
        unverified_allocation_max="1000",
    )
    config = msgspec.structs.replace(CONFIG, kyc=kyc)
    rows = [
        {**BASE, "follower": "a", "allocation": "1000"},
        {**BASE, "follower": "b", "allocation": "1000.01"},
        {**BASE, "follower": "c", "allocation": "5000.5", "kyc_tier": "basic"},
        {**BASE, "follower": "d", "allocation": "9000000", "kyc_tier": "full"},
        {**BASE, "follower": "e", "kyc_tier": "gold"},
    ]
    path = tmp_path / "followers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError) as caught:
        read_followers(path, config)
    assert caught.value.problems == [
        f"{path}:2: allocation: 1000.01 in all is above the 1000 of a follower who is not verified",
        f"{path}:3: allocation: 5000.5 in all is above the 5000 of tier basic",
        f"{path}:5: kyc_tier: no tier is called gold (known: basic, full)",
    ]
    path.write_text(json.dumps(rows[0]))
    assert len(read_followers(path, config)) == 1
