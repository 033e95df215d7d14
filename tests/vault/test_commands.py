"""``copyd key`` against a running exchange: what is kept, what is refused, and that nothing shows a key."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from copyd.config import KeysConfig
from copyd.credentials import credential_line, write_credentials
from copyd.errors import ConfigError
from copyd.journal.keyring import Keyring
from copyd.vault.envelope import Envelope
from copyd.vault.store import Row, decode, encode, load_all, open_vault
from copyd.yamlcheck import environment_problems, load_config
from tests.exchange.wire_helpers import ROOT
from tests.vault.conftest import Site
from tests.vault.transit import Transit, serving


def keys_of(site: Site) -> dict[str, str]:
    """Every key in use, opened as the daemon opens them."""
    return {name: credential.secret.reveal() for name, credential in load_all(load_config(site.path)).items()}


def test_a_key_is_kept_and_the_daemon_reads_it(site: Site) -> None:
    """From standard input into the ring, and out of it as the daemon's credentials."""
    made = site.add("bob")
    row = site.listed()["bob"]
    assert keys_of(site) == {"bob": made["secret"]}
    assert (row["venue"], row["version"], row["state"], row["ip_bound"]) == ("binance_usdm", 1, "good", True)
    assert made["key"] not in json.dumps(row) and made["secret"] not in json.dumps(row)
    table = site.key("list").stdout
    assert "bob" in table and row["fingerprint"] in table and made["key"] not in table
    done = site.key("add", "bob", "--venue", "binance_usdm", stdin=made)
    assert done.returncode == 1 and "key bob is already there; `copyd key rotate bob` replaces it" in done.stderr


@pytest.mark.parametrize("right", ["enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer"])
def test_a_key_that_moves_funds_is_refused_and_not_kept(site: Site, right: str) -> None:
    """Exit 1, the right by the venue's name, nothing stored; no override lifts it."""
    made = site.account("mover" + right, **{right: True})
    for more in ((), ("--allow-unbound-ip", "I insist")):
        done = site.key("add", "mover", "--venue", "binance_usdm", *more, stdin=made)
        assert done.returncode == 1
        assert f"key mover is refused and not kept: moves_funds: it can move funds ({right})" in done.stderr
        assert made["key"] not in done.stderr and made["secret"] not in done.stderr
    assert site.listed() == {}
    assert not any(made["key"].encode() in file.read_bytes() for file in site.folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("rights", "reason"), [
    ({"enableFutures": False}, "cannot_trade"), ({"enableReading": False}, "cannot_read"),
    ({"enableWormholes": True}, "unknown_right"), ({"ipRestrict": False}, "ip_not_bound"),
])  # fmt: skip
def test_other_keys_that_are_not_kept(site: Site, rights: dict[str, bool], reason: str) -> None:
    """Each with its reason."""
    done = site.key("add", "x", "--venue", "binance_usdm", stdin=site.account(f"x-{reason}", **rights))
    assert done.returncode == 1 and reason in done.stderr and site.listed() == {}


def test_a_leaders_key_need_only_read(site: Site) -> None:
    """The names of the configuration's leaders; any other must trade."""
    made = site.account("reader", enableFutures=False, ipRestrict=False)
    done = site.key("add", "lead", "--venue", "binance_usdm", stdin=made)
    assert done.returncode == 0 and "read_only_ok" in done.stdout, done.stderr


def test_an_unbound_key_is_kept_under_a_cap_for_a_stated_reason(site: Site) -> None:
    """The reason and the cap are sealed with the key and shown."""
    made = site.account("roamer", ipRestrict=False)
    done = site.key("add", "roamer", "--venue", "binance_usdm", "--allow-unbound-ip", "moves next week", stdin=made)
    assert done.returncode == 0 and "unbound_allowed" in done.stdout, done.stderr
    row = site.listed()["roamer"]
    assert (row["unbound_allowed"], row["notional_cap_e8"], row["ip_bound"]) == ("moves next week", 1000 * 10**8, False)
    assert "unbound: moves next week; orders up to 1000" in site.key("list").stdout
    assert site.key("test", "roamer").returncode == 0


@pytest.mark.parametrize("words", [
    ("--secret", "canarysecretcanary"), ("--key=canarysecretcanary",), ("--passphrase", "canarysecretcanary"),
    ("--api-secret", "canarysecretcanary"), ("canarysecretcanary",), ("canarykey", "canarysecretcanary"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["add", "rotate"])
def test_a_key_on_the_command_line_is_refused_unseen(lonely: Site, command: str, words: tuple[str, ...]) -> None:
    """Exit 2, and what stood there is not repeated."""
    venue = ("--venue", "binance_usdm") if command == "add" else ()
    done = lonely.key(command, "bob", *words, *venue)
    assert done.returncode == 2 and "never taken from the command line" in done.stderr
    assert "canarysecretcanary" not in done.stderr + done.stdout


@pytest.mark.parametrize("text", [
    "", "canarysecretcanary", "[1]", '{"key": "canarysecretcanary"}', '{"key": "a", "secret": "canary secret canary"}',
    '{"key": "a", "secret": "canarysecretcanary", "pin": "1"}', '{"name": "eve", "key": "a", "secret": "canarysecretcanary"}',
    '{"key": 5, "secret": "canarysecretcanary"}', "x" * 70_000,
])  # fmt: skip
def test_what_is_no_key_on_standard_input_is_one_sentence(lonely: Site, text: str) -> None:
    """Exit 2, without what stood there; the venue is not asked."""
    done = lonely.key("add", "bob", "--venue", "binance_usdm", stdin=text)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "canary" not in done.stderr and "x" * 100 not in done.stderr


def test_a_venue_that_does_not_answer_keeps_nothing(lonely: Site) -> None:
    """Exit 69: a key nobody vouched for is not kept. A kind nobody configured is exit 78."""
    done = lonely.key("add", "bob", "--venue", "binance_usdm", stdin={"key": "a", "secret": "b"})
    assert done.returncode == 69 and lonely.listed() == {}, done.stderr
    done = lonely.key("add", "bob", "--venue", "nowhere", stdin={"key": "a", "secret": "b"})
    assert done.returncode == 78 and "--venue nowhere: no such venue in the configuration (it has binance_usdm)" in done.stderr


def test_a_key_the_venue_does_not_know_is_refused(site: Site) -> None:
    """Its own word for it, no key in it."""
    done = site.key("add", "bob", "--venue", "binance_usdm", stdin={"key": "k" * 64, "secret": "s" * 64})
    assert done.returncode == 1 and "the venue says" in done.stderr and "k" * 10 not in done.stderr


def test_a_file_is_taken_over_and_can_be_taken_over_again(site: Site) -> None:
    """One refused key does not keep the others out; a second run passes over what is there."""
    rows = {f"f{i}": site.account(f"imp{i}", enableWithdrawals=i == 2) for i in range(4)}
    file = site.folder / "keys.jsonl"
    write_credentials(file, [credential_line(name, row["key"], row["secret"]) for name, row in rows.items()])
    done = site.key("import", file, "--venue", "binance_usdm")
    assert done.returncode == 1 and "3 keys are kept, 0 were there, 1 refused" in done.stdout
    assert "key f2 is refused: moves_funds" in done.stderr
    assert keys_of(site) == {name: row["secret"] for name, row in rows.items() if name != "f2"}
    site.restrict("imp2")
    done = site.key("import", file, "--venue", "binance_usdm")
    assert done.returncode == 0 and "1 keys are kept, 3 were there, 0 refused" in done.stdout
    file.chmod(0o644)
    assert site.key("import", file, "--venue", "binance_usdm").returncode == 78


def test_a_check_finds_a_right_that_was_given_later(site: Site) -> None:
    """``key test``: exit 1 and the reason; ``key list`` shows it until it is right again."""
    site.add("gainer")
    site.add("steady")
    assert site.key("test").returncode == 0
    site.restrict("gainer", enableWithdrawals=True)
    done = site.key("test")
    assert done.returncode == 1 and "gainer: refused: moves_funds" in done.stderr and "steady: good" in done.stdout
    assert site.listed()["gainer"]["state"] == "refused: moves_funds"
    site.restrict("gainer")
    told = json.loads(site.key("test", "gainer", "--json").stdout)
    assert told[0]["result"] == "good" and site.listed()["gainer"]["state"] == "good"
    assert site.key("test", "nobody").returncode == 1


def test_a_key_is_replaced_only_by_one_that_passes(site: Site) -> None:
    """The old one stays where the new one is refused or cannot be tested; a good one takes over with the next version."""
    old = site.add("rota")
    bad = site.account("rota-bad", enableInternalTransfer=True)
    done = site.key("rotate", "rota", stdin=bad)
    assert done.returncode == 1 and "the new key of rota is refused and not kept, the old one stays" in done.stderr
    assert keys_of(site) == {"rota": old["secret"]} and "following" not in site.listed()["rota"]
    assert site.key("rotate", "rota", stdin=old).returncode == 1
    good = site.account("rota-good")
    done = site.key("rotate", "rota", stdin=good)
    assert done.returncode == 0, done.stderr
    assert keys_of(site) == {"rota": good["secret"]} and site.listed()["rota"]["version"] == 2
    assert site.key("rotate", "nobody", stdin=good).returncode == 1


def test_a_new_key_waits_while_the_venue_is_away(site: Site) -> None:
    """Exit 69: both are kept, the old one is in use; the next test that passes makes the change."""
    old, new = site.add("waits"), site.account("waits-new")
    rest = site.config["venues"][0]["rest_url"]
    site.config["venues"][0]["rest_url"] = "http://127.0.0.1:9"
    site.write()
    done = site.key("rotate", "waits", stdin=new)
    assert done.returncode == 69 and "waits beside the old one for `copyd key test waits`" in done.stderr
    assert keys_of(site) == {"waits": old["secret"]} and site.listed()["waits"]["following"]["version"] == 2
    assert site.key("test", "waits").returncode == 69
    site.config["venues"][0]["rest_url"] = rest
    site.write()
    assert site.key("test", "waits").returncode == 0
    assert keys_of(site) == {"waits": new["secret"]} and "following" not in site.listed()["waits"]


def test_a_venue_that_is_too_busy_says_nothing_about_a_key(site: Site) -> None:
    """Exit 69: the key that waits goes on waiting, nothing is destroyed for it."""

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    old, new = site.add("waits3"), site.account("waits3-new")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        site.config["venues"][0]["sapi_url"] = f"http://127.0.0.1:{server.server_address[1]}"
        site.write()
        done = site.key("rotate", "waits3", stdin=new)
        assert done.returncode == 69 and "waits beside the old one" in done.stderr, done.stderr
        assert site.key("test", "waits3").returncode == 69
        assert keys_of(site) == {"waits3": old["secret"]} and site.listed()["waits3"]["following"]["version"] == 2
    finally:
        server.shutdown()
        server.server_close()
        del site.config["venues"][0]["sapi_url"]
        site.write()
    assert site.key("test", "waits3").returncode == 0
    assert keys_of(site) == {"waits3": new["secret"]}


def test_a_key_that_waits_and_is_found_bad_is_destroyed(site: Site) -> None:
    """The old one stays in use."""
    old, new = site.add("waits2"), site.account("waits2-new", enableWithdrawals=True)
    rest = site.config["venues"][0]["rest_url"]
    site.config["venues"][0]["rest_url"] = "http://127.0.0.1:9"
    site.write()
    assert site.key("rotate", "waits2", stdin=new).returncode == 69
    site.config["venues"][0]["rest_url"] = rest
    site.write()
    assert site.key("test", "waits2").returncode == 1
    assert keys_of(site) == {"waits2": old["secret"]} and "following" not in site.listed()["waits2"]


def test_a_revoked_key_is_gone_and_its_reason_stays(site: Site) -> None:
    """The envelope is destroyed; the name can be used again, with the next version."""
    site.add("gone")
    with Keyring(site.journal) as ring:
        before = ring.get("gone")
        assert before is not None
        row = decode("gone", before)
    assert site.key("revoke", "gone", "--reason", " ").returncode == 2
    assert site.key("revoke", "gone", "--reason", "left us").returncode == 0
    shown = site.listed()["gone"]
    assert (shown["state"], shown["reason"], shown["version"]) == ("revoked", "left us", 1) and keys_of(site) == {}
    with Keyring(site.journal) as ring:
        after = ring.get("gone")
    assert row.current is not None and after is not None
    assert row.current.sealed not in after and row.current.wrapped not in after
    raw = (site.journal / "keys" / "data.mdb").read_bytes()
    assert row.current.sealed[:24] not in raw and row.current.wrapped[12:36] not in raw
    for words in (("revoke", "gone", "--reason", "x"), ("rotate", "gone"), ("test", "gone"), ("revoke", "no", "--reason", "x")):
        assert site.key(*words).returncode == 1
    made = site.account("gone-again")
    assert site.key("add", "gone", "--venue", "binance_usdm", stdin=made).returncode == 0
    assert site.listed()["gone"]["version"] == 2


def stored(site: Site, names: list[str]) -> None:
    """Keys kept without asking anybody, for what is not about rights."""
    from copyd.credentials import Credential, Secret
    from copyd.vault.store import Check

    config = load_config(site.path)
    with open_vault(site.journal, config.keys, create=True) as vault:
        for name in names:
            vault.add(Credential(name, Secret("key-" + name), Secret("secret-" + name)), venue="binance_usdm", account="",
                      now_ns=1, check=Check(ts_ns=1))  # fmt: skip


def test_what_was_changed_on_disk_is_named_and_the_others_can_be_listed(lonely: Site) -> None:
    """Exit 65, the key by name: a byte changed, a row moved to another name. It can be added again or revoked."""
    stored(lonely, ["a", "b", "c"])
    with Keyring(lonely.journal) as ring:
        a, b = ring.get("a"), ring.get("b")
        assert a is not None and b is not None
        ring.replace("a", a, b)
        ring.replace("b", b, b[:50] + bytes([b[50] ^ 1]) + b[51:])
    done = lonely.key("list", "--json")
    assert done.returncode == 65 and {row["name"]: row["state"] for row in json.loads(done.stdout)} == {
        "a": "damaged", "b": "damaged", "c": "good"}  # fmt: skip
    assert "key a: the envelope there is that of b; it was moved" in done.stderr
    assert "key b: what is stored is not what was written" in done.stderr
    with pytest.raises(ConfigError) as caught:
        keys_of(lonely)
    assert len(caught.value.problems) == 2 and "secret-" not in str(caught.value)
    assert lonely.key("test", "a").returncode == 65
    stored(lonely, ["a"])
    assert lonely.key("revoke", "b", "--reason", "broken").returncode == 0
    assert keys_of(lonely) == {"a": "secret-a", "c": "secret-c"}


def test_another_kek_opens_nothing_and_says_which_is_missing(lonely: Site) -> None:
    """Exit 78, by the name of the KEK in the envelope."""
    stored(lonely, ["a"])
    lonely.config["keys"]["kek"] = lonely.new_kek()
    lonely.write()
    with pytest.raises(ConfigError, match=r"key a: sealed with local:[0-9a-f]{16}, which the configuration does not name"):
        keys_of(lonely)
    done = lonely.key("rotate-kek")
    assert done.returncode == 65 and "0 of 1 keys wrapped anew, 0 were so already, 1 could not be" in done.stdout
    assert lonely.key("list").returncode == 0, "no KEK is needed to look"
    Path(lonely.config["keys"]["kek"]["file"]).write_bytes(b"short")
    done = lonely.key("test")
    assert done.returncode == 78 and "not a key of 32 bytes" in done.stderr


def test_a_kek_is_replaced_with_a_kill_at_any_point(lonely: Site) -> None:
    """SIGKILL in the middle, again and again: every key opens at every moment, and the last run finishes what is left."""
    names = [f"n{i:04}" for i in range(150)]
    stored(lonely, names)
    wanted = {name: "secret-" + name for name in names}
    lonely.config["keys"]["kek_before"] = lonely.config["keys"]["kek"]
    lonely.config["keys"]["kek"] = lonely.new_kek()
    lonely.write()
    draw, seen = random.Random(5), set()
    new = open_vault(lonely.journal, load_config(lonely.path).keys)
    new_id = new._kek.id
    new._ring.close()

    def envelopes() -> list[Envelope]:
        with Keyring(lonely.journal) as ring:
            rows = [decode(name, value) for name, value in ring.items()]
        return [row.current for row in rows if row.current is not None]

    def moved() -> int:
        return sum(envelope.kek == new_id for envelope in envelopes())

    before = [envelope.wrapped for envelope in envelopes()]

    for _ in range(3):
        start = moved()
        child = lonely.child("rotate-kek")
        until = time.monotonic() + 20
        while child.poll() is None and moved() == start and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        seen.add(moved())
        assert keys_of(lonely) == wanted
    assert any(0 < count < len(names) for count in seen), f"never killed in the middle: {seen}"
    left = len(names) - moved()
    done = lonely.key("rotate-kek")
    assert done.returncode == 0, done.stderr
    assert f"{left} of 150 keys wrapped anew, {150 - left} were so already, 0 could not be" in done.stdout
    raw = (lonely.journal / "keys" / "data.mdb").read_bytes()
    assert not any(wrapped[12:36] in raw for wrapped in before), "data keys under the KEK before are still in the file"
    del lonely.config["keys"]["kek_before"]
    lonely.write()
    assert keys_of(lonely) == wanted
    assert "0 of 150 keys wrapped anew" in lonely.key("rotate-kek").stdout


def test_a_damaged_envelope_is_not_wrapped_as_if_it_were_good(lonely: Site) -> None:
    """It is named, the others go on, and it stays as it is for whoever looks into it."""
    stored(lonely, ["a", "b"])
    with Keyring(lonely.journal) as ring:
        value = ring.get("a")
        assert value is not None
        row = decode("a", value)
        assert row.current is not None
        import msgspec

        bad = encode(Row(current=msgspec.structs.replace(row.current, sealed=row.current.sealed[:-1] + b"\0")))
        ring.replace("a", value, bad)
    lonely.config["keys"] |= {"kek_before": lonely.config["keys"]["kek"], "kek": lonely.new_kek()}
    lonely.write()
    done = lonely.key("rotate-kek")
    assert done.returncode == 65 and "key a: the envelope is not what was sealed" in done.stderr
    with Keyring(lonely.journal) as ring:
        assert ring.get("a") == bad
        value = ring.get("b")
        assert value is not None and decode("b", value).current is not None


def test_keys_under_a_transit_key(lonely: Site) -> None:
    """From a local KEK to Vault and on to the next version of its key; a token that may nothing opens nothing."""
    stored(lonely, ["a", "b"])
    wanted = {"a": "secret-a", "b": "secret-b"}
    token = lonely.folder / "token"
    token.write_text("s.canarytoken")
    token.chmod(0o600)
    engine = Transit("s.canarytoken")
    with serving(engine) as address:
        lonely.config["keys"] |= {"kek_before": lonely.config["keys"]["kek"], "kek": {
            "source": "vault", "vault": {"address": address, "token_file": str(token)}}}  # fmt: skip
        lonely.write()
        assert lonely.key("rotate-kek").returncode == 0
        del lonely.config["keys"]["kek_before"]
        lonely.write()
        assert keys_of(lonely) == wanted
        engine.rotate()
        assert "2 of 2 keys wrapped anew" in lonely.key("rotate-kek").stdout
        assert "0 of 2 keys wrapped anew, 2 were so already" in lonely.key("rotate-kek").stdout
        engine.versions[0] = os.urandom(32)  # the first version is gone
        assert keys_of(lonely) == wanted
        engine.token = "another"
        done = lonely.key("test")
        assert done.returncode == 69 and "403: permission denied" in done.stdout + done.stderr


def test_the_prompt_shows_nothing_of_what_is_typed(site: Site) -> None:
    """On a terminal key, secret and passphrase are asked for, and none is echoed."""
    made = site.account("typist")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        words = [sys.executable, "-m", "copyd.cli", "key", "add", "typist", "--venue", "binance_usdm", "-c", str(site.path)]
        os.execv(sys.executable, words)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(terminal, 4096)

    for asked, answer in ((b"API key of typist:", made["key"]), (b"Secret:", made["secret"]), (b"Passphrase", "")):
        until(asked)
        os.write(terminal, answer.encode() + b"\n")
    until(b"key typist is kept")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert made["key"].encode() not in seen and made["secret"].encode() not in seen
    assert keys_of(site) == {"typist": made["secret"]}


def test_check_config_says_what_is_not_there(lonely: Site) -> None:
    """No keys yet, no KEK file; a source that lacks what it needs is a mistake with its place."""
    assert any("no keys in" in note for note in environment_problems(load_config(lonely.path)))
    lonely.config["keys"]["kek"]["file"] = str(lonely.folder / "nowhere")
    lonely.write()
    assert any("keys.kek.file" in note for note in environment_problems(load_config(lonely.path)))
    for keys, said in (
        ({"kek": {"source": "file"}}, "keys.kek.file: is needed with source: file"),
        ({"kek": {"source": "vault"}}, "keys.kek.vault.address: is needed with source: vault"),
        ({"kek": {"source": "vault", "vault": {"address": "http://192.0.2.1:8200"}}}, "would be reached without encryption"),
        ({"unbound_notional_cap": "0"}, "0 would be no cap at all"),
    ):  # fmt: skip
        lonely.config["keys"] = keys
        lonely.write()
        done = lonely.key("list")
        assert done.returncode == 78 and said in done.stderr


def test_no_kek_is_made_up(lonely: Site) -> None:
    """Without any source the default is a systemd credential, and its absence is said."""
    del lonely.config["keys"]
    lonely.write()
    assert load_config(lonely.path).keys == KeysConfig()
    done = lonely.key("add", "bob", "--venue", "binance_usdm", stdin={"key": "a", "secret": "b"})
    assert done.returncode == 78 and "credential copyd-kek: not started by systemd" in done.stderr
