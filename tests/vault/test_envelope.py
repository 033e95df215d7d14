"""A sealed key opens where it was put, as it was put, and nowhere else."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.credentials import Credential, Secret
from copyd.journal.errors import JournalDamaged
from copyd.vault.envelope import Envelope, Facts, fingerprint, opened, seal
from copyd.vault.kek import LocalKek
from copyd.vault.store import Row, decode, encode

KEK = LocalKek(b"k" * 32)


def made(name: str = "alice", secret: str = "s" * 64, venue: str = "binance_usdm", **more) -> tuple[Envelope, bytes]:
    credential = Credential(name, Secret("key of " + name), Secret(secret), "hmac", Secret("phrase"))
    facts = Facts(
        name=name, venue=venue, account="7", version=1, fingerprint=fingerprint(credential.key), added_ns=1, **more)
    data_key = os.urandom(32)
    return seal(credential, facts, KEK.id, data_key, KEK.wrap([data_key])[0]), data_key


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=300), st.text(max_size=40))
def test_what_is_sealed_is_what_opens(key: str, secret: str, phrase: str) -> None:
    """Key, secret and passphrase, whatever characters they have."""
    credential = Credential("a", Secret(key), Secret(secret), "ed25519", Secret(phrase))
    facts = Facts(
        name="a", venue="okx", account="", version=3, fingerprint=fingerprint(credential.key), added_ns=5, kind="ed25519")
    envelope = seal(credential, facts, "x", b"d" * 32, b"w")
    back = opened(envelope, "a", b"d" * 32)
    assert (back.key.reveal(), back.secret.reveal(), back.passphrase.reveal(), back.kind) == (key, secret, phrase, "ed25519")


def test_the_same_key_sealed_twice_is_sealed_differently() -> None:
    """A fresh nonce and a fresh data key each time; and nothing of the key can be read in what is stored."""
    sealed = [made()[0] for _ in range(200)]
    assert len({e.nonce for e in sealed}) == len({e.sealed for e in sealed}) == len({e.wrapped for e in sealed}) == 200
    assert {len(e.nonce) for e in sealed} == {12}
    stored = encode(Row(current=sealed[0]))
    assert b"s" * 16 not in stored and b"key of alice" not in stored and b"phrase" not in stored


@pytest.mark.parametrize("more", [
    {"name": "bob"}, {"venue": "okx"}, {"account": "8"}, {"version": 2}, {"fingerprint": "0" * 12}, {"added_ns": 2},
    {"kind": "ed25519"}, {"override": "let me"}, {"cap_e8": 10**18},
])  # fmt: skip
def test_each_fact_is_bound_by_the_seal(more: dict) -> None:
    """Moved to another name, venue or account, put back to an older version, its cap lifted: it does not open."""
    envelope, data_key = made(cap_e8=5, override="why")
    changed = msgspec.structs.replace(envelope, facts=msgspec.structs.replace(envelope.facts, **more))
    with pytest.raises(JournalDamaged, match=r"key (alice|bob): the envelope is not what was sealed"):
        opened(changed, changed.facts.name, data_key)
    with pytest.raises(JournalDamaged, match="key carol: the envelope there is that of alice; it was moved"):
        opened(envelope, "carol", data_key)


def test_envelopes_that_were_swapped_or_cut_do_not_open() -> None:
    """The seal of another, the data key of another, a seal cut short or empty, a format of later."""
    (one, key_one), (two, key_two) = made("alice"), made("bob")
    for changed, data_key in (
        (msgspec.structs.replace(one, sealed=two.sealed, nonce=two.nonce), key_one),
        (msgspec.structs.replace(one, sealed=two.sealed, nonce=two.nonce, wrapped=two.wrapped), key_two),
        (one, key_two), (msgspec.structs.replace(one, sealed=one.sealed[:-1]), key_one),
        (msgspec.structs.replace(one, sealed=b""), key_one), (msgspec.structs.replace(one, nonce=b""), key_one),
    ):  # fmt: skip
        with pytest.raises(JournalDamaged, match="key alice: the envelope is not what was sealed"):
            opened(changed, "alice", data_key)
    with pytest.raises(JournalDamaged, match="format 9, this build knows 1"):
        opened(msgspec.structs.replace(one, format=9), "alice", key_one)


def test_every_bit_of_a_seal_counts() -> None:
    """Each bit of seal, nonce and wrapped key flipped by itself."""
    envelope, data_key = made()
    for field in ("sealed", "nonce", "wrapped"):
        value = getattr(envelope, field)
        for bit in range(len(value) * 8):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            if field == "wrapped":
                assert KEK.unwrap([bytes(flipped)]) == [None]
                continue
            with pytest.raises(JournalDamaged):
                opened(msgspec.structs.replace(envelope, **{field: bytes(flipped)}), "alice", data_key)


def test_every_byte_of_a_stored_row_counts() -> None:
    """A row with any byte changed, or cut anywhere, is named as damaged; it never reads as another row."""
    stored = encode(Row(current=made()[0]))
    assert decode("alice", stored).current is not None
    for at in range(len(stored)):
        flipped = bytearray(stored)
        flipped[at] ^= 1 << (at % 8)
        with pytest.raises(JournalDamaged, match="key alice"):
            decode("alice", bytes(flipped))
        with pytest.raises(JournalDamaged, match="key alice"):
            decode("alice", stored[:at])
    with pytest.raises(JournalDamaged, match="key bob: the envelope there is that of alice"):
        decode("bob", stored)
