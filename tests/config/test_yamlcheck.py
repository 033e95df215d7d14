"""Every problem of a configuration file at once, each with its line, column and a hint."""

import os
import random
import secrets
from pathlib import Path

import msgspec
import pytest

from copyd.adapters import endpoints_of
from copyd.app import declared_profiles
from copyd.configfile import config_text, example
from copyd.core.engine import Declared
from copyd.errors import ConfigError
from copyd.venues.bitget.instruments import SPOT_MARK
from copyd.yamlcheck import BITGET_SPOT, check_files, load, load_config, looks_like_secret, reload

MISTAKES = """\
mode: simulat
site:
  id: 70000
  name: no
  nmae: oops
journal:
  path: /var/lib/copyd/journal
  map_size_mib: 010
  map_size_mib: 64
  durability: strict
  checkpoint_every_records: 20:30
venues:
  - name: binance
    kind: binance_usdm
    rest_url: ftp://127.0.0.1
    ws_api_url: ws://127.0.0.1:9471/ws-fapi/v1
    public_stream_url: ws://127.0.0.1:9471/public
    private_stream_url: ws://127.0.0.1:9471/private
    recv_window_ms: 1.5
    api_secret: hunter2
instruments:
  - {symbol: btcusdt, venue: binance, class: majors}
  - {symbol: ETHUSDT, venue: bynance}
leaders:
  - id: alice
    venue: binance
    credential: alice
    suspended: off
    equity_poll_interval_ms: 5000
    equity_max_age_ms: 4000
credentials:
  - {file: a, credential: b}
copy:
  raise_max_factor: 1.5
  max_event_age_ms: "2000"
  multiplier_min: "0.05"
presets:
  balanced: {leverage_max: 10, max_position_bps: 3000, max_loss_per_trade_bps: 200, max_notional_total: 1000}
control:
  socket_mode: "0666"
runtime: [1, 2]
"""

EXPECTED = [
    (1, 7, "mode", "simulat is not one of live | simulate (did you mean simulate?)"),
    (3, 7, "site.id", "70000 is greater than the maximum of 65535"),
    (4, 9, "site.name", 'YAML reads a plain no as true/false, not as text (write "no")'),
    (5, 3, "site.nmae", "unknown key (did you mean name?)"),
    (8, 17, "journal.map_size_mib", "YAML reads 010 as 8 (octal) (write plain decimal digits)"),
    (9, 3, "journal.map_size_mib", "this key occurs twice (first at line 8)"),
    (11, 29, "journal.checkpoint_every_records", "YAML reads 20:30 as 1230 (base 60)"),
    (13, 5, "venues[0].market_stream_url", "missing beside the other addresses"),
    (15, 15, "venues[0].rest_url", '"ftp://127.0.0.1" is not an http:// or https:// address'),
    (19, 21, "venues[0].recv_window_ms", "expected a whole number, got 1.5"),
    (20, 5, "venues[0].api_secret", "a secret does not belong in this file"),
    (22, 14, "instruments[0].symbol", '"btcusdt" is not a symbol'),
    (23, 30, "instruments[1].venue", "no venue is called bynance (known: binance)"),
    (28, 16, "leaders[0].suspended", "off is not written true or false (write false)"),
    (30, 24, "leaders[0].equity_max_age_ms", "4000 is not above equity_poll_interval_ms (5000)"),
    (32, 5, "credentials[0]", "give exactly one of file, credential and vault: true"),
    (34, 21, "copy.raise_max_factor", 'a factor must be a quoted decimal, not a YAML number (write "1.5")'),
    (35, 21, "copy.max_event_age_ms", "expected a whole number, got text (remove the quotes)"),
    (36, 19, "copy.multiplier_min", "0.05 is below the hard limit of 0.1"),
    (38, 105, "presets.balanced.max_notional_total", "money must be a quoted decimal, not a YAML number"),
    (40, 16, "control.socket_mode", "lets everyone on this machine control the daemon"),
    (41, 10, "runtime", "expected keys with values, got a list"),
]


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes, name: str = "copyd.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_file_with_two_and_twenty_mistakes_reports_exactly_those(written):
    """All of them at once, in the order of the file, no other; the values named as `hunter2` is not."""
    path = written(MISTAKES)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 78
    lines = caught.value.problems
    assert len(lines) == len(EXPECTED), "\n".join(lines)
    for line, (row, col, key, text) in zip(lines, EXPECTED, strict=True):
        assert line.startswith(f"{path}:{row}:{col}: {key}: {text}"), line
    assert "hunter2" not in str(caught.value)


def _problems(path: Path) -> list[str]:
    return [str(problem) for problem in check_files([path])[1]]


GOOD = config_text(example(), comments=False)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: b: c\n", 1, "not YAML"),
        ("mode: [1\nsite: 2\n", 2, "not YAML"),
        ("\tmode: simulate\n", 1, "not YAML"),
        ("mode: &x simulate\nsite: *x\n", 1, "anchor &x"),
        ("mode: !!python/name:os.system simulate\n", 1, "tag"),
        (GOOD + "---\nmode: live\n", len(GOOD.splitlines()) + 1, "a second document"),
        ("mode: " + "[" * 2000 + "\n", 1, "nested deeper"),
        ("", 1, "the file is empty"),
        ("just text\n", 1, "expected keys with values"),
        ("- a\n", 1, "expected keys with values"),
        ("? [a, b]\n: c\n", 1, "a key must be a plain word"),
        (GOOD.replace("health:", "health: {}\non: 1\nhealthy:"), None, "unknown key"),
        (b"mode: \xff\n", 1, "not UTF-8"),
        (b"mode: simulate\x00\n", 1, "not YAML"),
    ],
)
def test_what_is_not_a_configuration_is_named_with_its_line(written, text, line, words):
    path = written(text)
    problems = _problems(path)
    assert any(words in problem for problem in problems), problems
    if line is not None:
        assert any(problem.startswith(f"{path}:{line}:") for problem in problems), problems


def test_a_plain_on_as_key_is_told_apart(written):
    assert any("YAML also reads a plain on as true/false" in p for p in _problems(written(GOOD + "on: 1\n")))


def test_a_file_too_large_is_not_read(written):
    assert any("larger than" in problem for problem in _problems(written("# " + "x" * (1 << 20))))


def test_a_missing_file_is_one_problem(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_a_file_anyone_may_write_is_refused(written):
    path = written(GOOD)
    path.chmod(0o666)
    assert any("anyone may write" in problem for problem in _problems(path))


def test_simulate_refuses_a_venue_that_is_not_this_machine(written):
    problems = _problems(written(GOOD.replace("http://127.0.0.1:9470", "https://fapi.binance.com")))
    assert len(problems) == 1
    assert "mode is simulate, but fapi.binance.com is not this machine" in problems[0]


def test_live_refuses_a_remote_venue_without_encryption(written):
    text = GOOD.replace("mode: simulate", "mode: live").replace("http://127.0.0.1:9470", "http://fapi.binance.com")
    assert any("without encryption" in problem for problem in _problems(written(text)))


def test_a_mistake_does_not_bring_others_with_it(written):
    """A venue whose name is wrong is one problem, not one per leader and instrument that refers to it."""
    problems = _problems(written(GOOD.replace("- name: binance", "- name: [x]")))
    assert len(problems) == 1, problems


@pytest.mark.parametrize(
    "make",
    [
        lambda: secrets.token_hex(32),
        lambda: "".join(secrets.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(64)),
        lambda: "-----BEGIN PRIVATE KEY-----",
        lambda: "https://user:pass@host/x",
    ],
)
def test_a_secret_is_seen_wherever_it_stands_and_never_repeated(written, make):
    """As a value, in a comment, as an unknown key's value: one problem each, without the secret."""
    secret = make()
    assert looks_like_secret(secret)
    for text in (
        GOOD.replace("name: copyd", f'name: "{secret}"'),
        GOOD + f"# {secret}\n",
        GOOD + f'apikey: "{secret}"\n',
    ):
        problems = _problems(written(text))
        assert len(problems) == 1, problems
        assert "secret" in problems[0]
        assert secret not in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "/var/lib/copyd/journal-of-the-second-site-2026-11-20",
        "wss://ws-fapi.binance.com/ws-fapi/v1",
        "a sentence of words about keys and secrets and what they are for",
        "11111111111111111111111111111111111111111111",
        "internationalizationofmultiplicationtables",
        "credential-of-the-production-followers-2026",
    ],
)
def test_words_and_paths_are_not_taken_for_secrets(text):
    assert not looks_like_secret(text)


def test_conf_d_is_merged_in_the_order_of_names(written):
    """Sections merge, lists grow, a single value replaces, and an origin names the file that won."""
    path = written(GOOD)
    written("copy: {max_event_age_ms: 1000}\n", "conf.d/10-a.yaml")
    extra = "copy: {max_event_age_ms: 1500}\nleaders:\n  - {id: bob, venue: binance, credential: bob}\n"
    last = written(extra, "conf.d/20-b.yaml")
    loaded = load(path)
    assert loaded.config.copy.max_event_age_ms == 1500
    assert [leader.id for leader in loaded.config.leaders] == ["alice", "bob"]
    assert loaded.origins["copy.max_event_age_ms"].file == str(last)


def test_a_problem_in_conf_d_names_that_file(written):
    path = written(GOOD)
    bad = written("copy: {max_event_age_ms: x, max_event_age_ms: 2}\n", "conf.d/10-a.yaml")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 2, caught.value.problems
    assert all(problem.startswith(str(bad)) for problem in caught.value.problems)


def test_a_reload_takes_what_may_change_and_refuses_the_rest_by_name_and_place(written):
    running = example()
    assert (
        reload(written(GOOD.replace("max_event_age_ms: 2000", "max_event_age_ms: 999")), running).config.copy.max_event_age_ms
        == 999
    )
    path = written(GOOD.replace("id: 1", "id: 2"))
    with pytest.raises(ConfigError) as caught:
        reload(path, running)
    [problem] = caught.value.problems
    assert problem.startswith(f"{path}:3:3: site: differs from what is running")


def test_names_that_occur_twice_are_refused(written):
    text = GOOD.replace("  - symbol: ETHUSDT", "  - symbol: BTCUSDT")
    assert any("BTCUSDT is already instruments[0]" in problem for problem in _problems(written(text)))


def test_bitgets_spot_is_a_venue_of_its_own(written):
    """Its two accounts have balances of their own: both markets under one venue are refused, and said at the first of spot."""
    text = """\
mode: simulate
site: {id: 7, name: here}
journal: {path: journal}
venues:
  - {name: there, kind: bitget, rest_url: "http://127.0.0.1:1", ws_url: "ws://127.0.0.1:2"}
instruments:
  - {symbol: BTCUSDT, venue: there, class: majors}
  - {symbol: BTCUSDT_SPBL, venue: there, class: majors}
leaders:
  - {id: lead, venue: there, credential: lead}
credentials:
  - {file: credentials.jsonl}
"""
    [problem] = _problems(written(text))
    assert "instruments[1].venue: there cannot have spot (BTCUSDT_SPBL) beside perpetuals (enter the exchange" in problem
    for symbol in ("BTCUSDT", "BTCUSDT_SPBL"):
        assert _problems(written(text.replace(f"  - {{symbol: {symbol}, venue: there, class: majors}}\n", ""))) == []
    assert BITGET_SPOT == SPOT_MARK


def test_what_a_leader_declares_names_instruments_there_are(written):
    """A symbol nobody configured is said with its place; what is right reaches the engine as bits, units and e8."""
    text = GOOD.replace("      instruments: []", "      instruments: [ETHUSDT, ETHUSD]", 1)
    assert text != GOOD
    [problem] = _problems(written(text))
    assert "leaders[0].declared.instruments[1]: no instrument is called ETHUSD (known: BTCUSDT, ETHUSDT, " in problem
    right = text.replace(", ETHUSD]", "]").replace("max_leverage: 0", "max_leverage: 5", 1)
    config = load_config(written(right.replace('max_position: "0"', 'max_position: "1500.5"', 1)))
    at = [instrument.symbol for instrument in config.instruments].index("ETHUSDT")
    assert declared_profiles(config) == {config.leaders[0].id: Declared(1 << at, 5, 150_050_000_000)}
    assert declared_profiles(load_config(written(GOOD))) == {}


def test_the_address_of_key_rights_may_be_left_out(written):
    """It is asked where the other addresses are, or in production where it really lives; one that is written must fit as well."""
    config = load_config(written(GOOD))
    assert endpoints_of(config.venues[0]).sapi == config.venues[0].rest_url
    other = GOOD.replace("    sapi_url: null\n", "    sapi_url: http://127.0.0.1:9\n", 1)
    assert endpoints_of(load_config(written(other)).venues[0]).sapi == "http://127.0.0.1:9"
    [problem] = _problems(written(other.replace("127.0.0.1:9\n", "10.0.0.1:9\n", 1)))
    assert "venues[0].sapi_url: mode is simulate, but 10.0.0.1 is not this machine" in problem
    live = msgspec.structs.replace(config.venues[0], rest_url="https://fapi.binance.com")
    assert endpoints_of(live).sapi == "https://api.binance.com"
    assert endpoints_of(msgspec.structs.replace(live, rest_url=None)).sapi == "https://api.binance.com"


def test_a_venue_through_ccxt_names_its_exchange_and_its_interpreter(written):
    """Both are needed to start it at all: a file without them is not good."""
    problems = _problems(written(GOOD.replace("kind: binance_usdm", "kind: ccxt", 1)))
    assert {field for field in ("exchange_id", "python") if any(
        f"venues[0].{field}: is needed with kind: ccxt" in problem for problem in problems)} == {"exchange_id", "python"}


def test_an_empty_section_means_its_defaults(written):
    path = written(GOOD.split("runtime:")[0] + "runtime:\n")
    assert load_config(path).runtime == example().runtime


def test_arbitrary_bytes_give_problems_and_never_another_exception(written):
    for seed in range(60):
        rng = random.Random(seed)
        data = bytearray(GOOD.encode())
        for _ in range(4):
            data[rng.randrange(len(data))] = rng.randrange(256)
        check_files([written(bytes(data))])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_problem(written):
    path = written(GOOD)
    path.chmod(0)
    assert any("cannot be read" in problem for problem in _problems(path))
