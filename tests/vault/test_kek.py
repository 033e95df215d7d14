"""Where the key-encryption key comes from, and what is said when it does not come."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from copyd.config import KekConfig, TransitConfig
from copyd.credentials import Secret
from copyd.errors import ConfigError
from copyd.vault.kek import KekUnavailable, LocalKek, TransitKek, load_kek, parse_kek
from tests.vault.transit import Transit, serving

KEYS = [bytes([i]) * 32 for i in range(3)]


def test_a_key_of_32_bytes_raw_or_in_base64() -> None:
    """Anything else is one sentence that says how to make one, and shows nothing of what is there."""
    raw = bytes(range(200, 232))
    for text in (raw, base64.b64encode(raw), base64.b64encode(raw) + b"\n", b"  " + base64.b64encode(raw) + b" "):
        assert parse_kek(text, "x") == raw
    for text in (b"", b"short", raw[:31], raw + b"1", base64.b64encode(raw[:16]), base64.b64encode(raw + raw), b"*" * 44):
        with pytest.raises(ConfigError, match=r"^x: not a key of 32 bytes, raw or in base64 \(make one: openssl") as caught:
            parse_kek(text, "x")
        assert not text.strip() or text.decode("latin1") not in str(caught.value)


def test_sources_are_checked_before_they_are_read(tmp_path: Path) -> None:
    """A file that others can read, a credential outside systemd, a credential anyone can read: refused by name."""
    path = tmp_path / "kek"
    path.write_bytes(KEYS[0])
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640 lets others see the keys"):
        load_kek(KekConfig(source="file", file=str(path)))
    path.chmod(0o600)
    assert load_kek(KekConfig(source="file", file=str(path))).id == LocalKek(KEYS[0]).id
    with pytest.raises(ConfigError, match=r"credential copyd-kek: not started by systemd"):
        load_kek(KekConfig(), {})
    (tmp_path / "copyd-kek").write_bytes(base64.b64encode(KEYS[1]))
    (tmp_path / "copyd-kek").chmod(0o400)
    assert load_kek(KekConfig(), {"CREDENTIALS_DIRECTORY": str(tmp_path)}).id == LocalKek(KEYS[1]).id
    (tmp_path / "copyd-kek").chmod(0o444)
    with pytest.raises(ConfigError, match="anyone on this machine can read it"):
        load_kek(KekConfig(), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_local_key_wraps_and_unwraps_and_shows_nothing() -> None:
    """Another key opens nothing; neither its name nor its repr tells anything of it."""
    kek, other = LocalKek(KEYS[0]), LocalKek(KEYS[1])
    wrapped = kek.wrap(KEYS)
    assert kek.unwrap(wrapped) == KEYS and other.unwrap(wrapped) == [None] * 3 and kek.unwrap([b"", b"x" * 60]) == [None, None]
    assert kek.wrap(KEYS) != wrapped and kek.unwrap([w for w in kek.rewrap(wrapped) if w]) == KEYS and kek.id != other.id
    assert KEYS[0].hex() not in repr(kek) and KEYS[0].hex()[:8] not in kek.id


@pytest.fixture
def transit() -> Iterator[tuple[Transit, str]]:
    engine = Transit("s.canarytoken")
    with serving(engine) as address:
        yield engine, address


def kek_at(address: str, token: str = "s.canarytoken", **more: str) -> TransitKek:
    return TransitKek(address, Secret(token), **{"key": "copyd", **more})


def test_the_documented_calls_of_a_transit_engine(transit: tuple[Transit, str]) -> None:
    """POST /v1/transit/encrypt|decrypt|rewrap/NAME, the token in its header, base64 in, ``vault:v1:`` back."""
    engine, address = transit
    kek = kek_at(address, namespace="ns1")
    wrapped = kek.wrap(KEYS)
    assert all(value.startswith(b"vault:v1:") for value in wrapped) and kek.unwrap(wrapped) == KEYS
    engine.rotate()
    again = kek.rewrap(wrapped)
    assert all(value is not None and value.startswith(b"vault:v2:") for value in again)
    assert kek.unwrap([value for value in again if value]) == KEYS and kek.unwrap(wrapped) == KEYS
    assert [path for path, _, _ in engine.calls[:3]] == [f"/v1/transit/{what}/copyd" for what in ("encrypt", "decrypt", "rewrap")]
    for _, headers, _ in engine.calls:
        assert headers["X-Vault-Token"] == "s.canarytoken" and headers["X-Vault-Namespace"] == "ns1"
    assert engine.calls[0][2] == {"batch_input": [{"plaintext": base64.b64encode(key).decode()} for key in KEYS]}


def test_one_row_that_does_not_open_keeps_no_other_shut(transit: tuple[Transit, str]) -> None:
    """A batch with a bad row is answered by 400 with a result for each row."""
    kek = kek_at(transit[1])
    wrapped = kek.wrap(KEYS)
    assert kek.unwrap([wrapped[0], b"vault:v1:AAAA", b"nonsense", wrapped[2]]) == [KEYS[0], None, None, KEYS[2]]
    assert kek.rewrap([b"vault:v1:AAAA"]) == [None]


def test_many_rows_go_in_several_calls(transit: tuple[Transit, str]) -> None:
    """250 at a time, in their order."""
    keys = [os.urandom(32) for _ in range(600)]
    kek = kek_at(transit[1])
    assert kek.unwrap(kek.wrap(keys)) == keys
    assert [len(body["batch_input"]) for _, _, body in transit[0].calls] == [250, 250, 100] * 2


@pytest.mark.parametrize(("make", "said"), [
    (lambda engine: setattr(engine, "sealed", True), "encrypt refused with 503: Vault is sealed"),
    (lambda engine: setattr(engine, "token", "other"), "encrypt refused with 403: permission denied"),
    (lambda engine: setattr(engine, "key", "other"), "encrypt refused with 400: encryption key not found"),
    (lambda engine: setattr(engine, "mount", "other"), "encrypt refused with 404"),
    (lambda engine: setattr(engine, "answer", (307, b"{}")), "encrypt refused with 307"),
    (lambda engine: setattr(engine, "answer", (200, b"<html>")), "an answer that cannot be read"),
    (lambda engine: setattr(engine, "answer", (200, b"[]")), "an answer that cannot be read"),
    (lambda engine: setattr(engine, "answer", (200, b'{"data":{}}')), "other rows than it was asked for"),
    (lambda engine: setattr(engine, "answer", (200, b'{"data":{"batch_results":[{"ciphertext":"x"}]}}')), "no ciphertext"),
    (lambda engine: setattr(engine, "answer", (200, b'{"data":{"batch_results":[{"error":"x"}]}}')), "did not wrap"),
])  # fmt: skip
def test_a_refusal_is_one_sentence_without_the_token(transit: tuple[Transit, str], make, said: str) -> None:
    """Exit 69; what the service says is repeated, the token never; a redirect is not followed with it."""
    make(transit[0])
    with pytest.raises(KekUnavailable) as caught:
        kek_at(transit[1]).wrap(KEYS[:1])
    assert said in str(caught.value) and "canarytoken" not in str(caught.value) and caught.value.exit_code == 69
    assert len(transit[0].calls) == 1


def test_nobody_there_is_one_sentence() -> None:
    """A closed port."""
    with pytest.raises(KekUnavailable, match=r"transit:transit/copyd at 127.0.0.1:9: no answer: ConnectionRefusedError"):
        kek_at("http://127.0.0.1:9").unwrap([b"vault:v1:AA"])


def test_the_token_comes_from_a_guarded_file(tmp_path: Path, transit: tuple[Transit, str]) -> None:
    """Mode 0600, one word."""
    path = tmp_path / "token"
    path.write_text("s.canarytoken\n")
    path.chmod(0o600)
    terms = TransitConfig(address=transit[1], token_file=str(path))
    kek = load_kek(KekConfig(source="vault", vault=terms))
    assert kek.unwrap(kek.wrap(KEYS)) == KEYS
    path.write_text("two words")
    with pytest.raises(ConfigError, match="token: not a token"):
        load_kek(KekConfig(source="vault", vault=terms))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        load_kek(KekConfig(source="vault", vault=terms))
