"""Every implementation of SHA-256 gives what the standards' worked examples and OpenSSL give, whichever signs."""

import contextlib
import hashlib
import hmac
import os
import pickle
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd._fast import hashing

#: vector16-generic and vector16-avx2 are the source of avx512, compiled for processors without it
IMPLEMENTATIONS = ["avx512", "ni", "avx2", "plain", "vector16-avx2", "vector16-generic"]
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

# FIPS 180-4 and NIST's examples for it
DIGESTS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq":
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu":
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}

# RFC 4231, 4.2 to 4.8: key, data, HMAC-SHA-256 (of 4.6 the first 128 bits)
SIGNATURES = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First",
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    (b"\xaa" * 131,
     b"This is a test using a larger than block-size key and a larger than block-size data. "
     b"The key needs to be hashed before being used by the HMAC algorithm.",
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]


@contextlib.contextmanager
def hashed_by(implementation):
    """Hash by this one meanwhile; what the processor lacks is skipped."""
    try:
        before = hashing.choose(implementation)
    except ValueError:
        pytest.skip(f"this processor or compiler has no {implementation}")
    try:
        yield
    finally:
        hashing.choose(before)


def in_child(code, **environment):
    """(exit status, standard output, last line of standard error) of a Python that runs ``code``."""
    inherited = {name: value for name, value in os.environ.items() if name != "COPYD_SHA"}
    done = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


@every_implementation
def test_the_worked_examples_of_the_standard(implementation):
    """FIPS 180-4: alone, and in every lane of a full group beside a stream that differs."""
    with hashed_by(implementation):
        for message, digest in DIGESTS.items():
            assert hashing.sha256(message).hex() == digest
            others = [message, message[::-1]] * 8
            assert [found.hex() for found in hashing.sha256_many(others)[::2]] == [digest] * 8


@every_implementation
def test_the_worked_examples_of_hmac(implementation):
    """RFC 4231: keys shorter and longer than a block, all in one call and each alone."""
    with hashed_by(implementation):
        pairs = [(key, message) for key, message, _ in SIGNATURES]
        together = hashing.hmac_many(pairs)
        assert together == [hashing.hmac_many([pair])[0] for pair in pairs]
        for found, (_, _, wanted) in zip(together, SIGNATURES, strict=True):
            assert found.hex()[: len(wanted)] == wanted


@every_implementation
@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=64), seed=st.integers(0, 2**32), mixed=st.booleans())
def test_it_hashes_as_openssl_does(implementation, sizes, seed, mixed):
    """Any number of streams of any lengths: one digest after another is OpenSSL's, the signatures likewise."""
    draw = random.Random(seed)
    messages = [draw.randbytes(size if mixed else sizes[0]) for size in sizes]
    keys = [draw.randbytes(draw.randrange(100)) for _ in sizes]
    with hashed_by(implementation):
        assert hashing.sha256_many(messages) == [hashlib.sha256(message).digest() for message in messages]
        signed = [hmac.digest(key, message, "sha256") for key, message in zip(keys, messages, strict=True)]
        assert hashing.hmac_many(list(zip(keys, messages, strict=True))) == signed


@every_implementation
def test_every_length_and_every_number_of_streams(implementation):
    """All lengths 0 to 300 by one stream, and 1 to 64 streams at once: full groups, padded ones and what is left over."""
    with hashed_by(implementation):
        for size in range(301):
            message = bytes(at * 7 & 255 for at in range(size))
            assert hashing.sha256(message) == hashlib.sha256(message).digest()
        for n in range(1, 65):
            messages = [bytes([n, at]) * 40 for at in range(n)]
            assert hashing.sha256_many(messages) == [hashlib.sha256(message).digest() for message in messages]


@every_implementation
@pytest.mark.parametrize("group", [0, 1, 2, 3, 5, 16, 31, 64])
def test_rows_are_signed_as_messages_are(implementation, group):
    """The signatures of rows back to back do not depend on how many go through the hash together."""
    draw = random.Random(group)
    keys = [draw.randbytes(32) for _ in range(70)]
    for size in (1, 55, 56, 64, 219):
        rows = draw.randbytes(70 * size)
        messages = [rows[at : at + size] for at in range(0, len(rows), size)]
        with hashed_by(implementation):
            signed = hashing.Keys(keys).sign_rows(rows, size, group)
        assert signed == b"".join(hmac.digest(key, text, "sha256") for key, text in zip(keys, messages, strict=True))


@every_implementation
def test_data_need_not_be_aligned(implementation):
    """Rows lie where their text ends: from every address within a block the digests are the same."""
    messages = [bytes([at]) * 130 for at in range(16)]
    wanted = [hashlib.sha256(message).digest() for message in messages]
    with hashed_by(implementation):
        for offset in range(64):
            assert hashing.sha256_many(messages, offset) == wanted


def test_nothing_is_nothing():
    """No message, no digest; and there is always an implementation, the portable one last."""
    assert hashing.sha256_many([]) == hashing.hmac_many([]) == []
    assert hashing.Keys([]).sign_rows(b"", 1) == b""
    assert hashing.available()[-1] == "plain"
    assert hashing.chosen() in hashing.available()


def test_no_implementation_drops_out_unseen():
    """One that is wrong is not used, which would look like a processor that lacks it: here all that it has are right."""
    assert hashing.passed_over() == ()


def test_the_choice_is_by_name():
    """Choosing says what was chosen before; a name that is not there changes nothing and is told which are."""
    first = hashing.chosen()
    assert hashing.choose("plain") == first
    assert hashing.chosen() == "plain"
    with pytest.raises(ValueError, match=f"'abacus' here: there are {', '.join(hashing.available())}"):
        hashing.choose("abacus")
    assert hashing.choose(first) == "plain"


def test_what_does_not_fit_is_refused():
    """A message per key, rows of the size that is said, bytes and nothing else; and keys stay where they are."""
    keys = hashing.Keys([b"one", b"two"])
    assert len(keys) == 2
    with pytest.raises(ValueError, match="1 messages for 2 keys"):
        keys.sign([b""])
    for rows, size, group in [(bytes(9), 5, 0), (bytes(10), 5, 65), (bytes(10), 5, -1), (b"", 0, 0)]:
        with pytest.raises(ValueError, match="rows of"):
            keys.sign_rows(rows, size, group)
    with pytest.raises(ValueError, match="not within a block"):
        hashing.sha256_many([b""], 64)
    for wrong in ([bytearray(1)], ["text"], [None]):
        with pytest.raises(TypeError):
            hashing.sha256_many(wrong)
        with pytest.raises(TypeError):
            hashing.Keys(wrong)
    with pytest.raises(TypeError, match="not copied"):
        pickle.dumps(keys)


SHOW = "from copyd._fast import hashing; print(hashing.chosen(), *hashing.available(), *hashing.passed_over())"


def test_the_environment_may_name_the_implementation():
    """COPYD_SHA is obeyed by a process when it starts; without it, and with auto, the best that is there is taken."""
    best = hashing.available()[0]
    for wish, chosen in [*zip(hashing.available(), hashing.available(), strict=True), ("auto", best), ("", best)]:
        assert in_child(SHOW, COPYD_SHA=wish) == (0, " ".join([chosen, *hashing.available()]), "")
    assert in_child(SHOW)[1].split()[0] == best


@pytest.mark.parametrize("wish", ["abacus", "vector16-generic"])
def test_an_implementation_that_is_not_there_stops_the_start(wish):
    """A wish that cannot be met is an error that names what can be had; the kinds made for tests cannot."""
    status, _, error = in_child(SHOW, COPYD_SHA=wish)
    assert status == 1
    there = ", ".join(hashing.available())
    assert error == f"ValueError: COPYD_SHA={wish}: no such SHA-256 implementation here; there are auto, {there}"


@pytest.mark.parametrize("implementation", ["plain", "avx2"])
def test_a_process_signs_orders_by_the_implementation_it_was_given(implementation):
    """The encoder has no hash of its own: under COPYD_SHA its frames are those of this process."""
    code = (
        "from copyd._fast import hashing\n"
        "from copyd._fast.encode import Encoder\n"
        "made = Encoder(2000, 7)\n"
        "made.set_account(0, b'KEY', b'SECRET', 3)\n"
        "made.set_instrument(0, 'BTCUSDT', 1, 1, 3, 1)\n"
        "[(_, frames, _, _)] = made.encode_rows([(0, 0, bytes(range(16)), 10, 650001, -1, 0, True)] * 9, 1700000000000)\n"
        "print(hashing.chosen(), frames.hex())\n"
    )
    if implementation not in hashing.available():
        pytest.skip(f"this processor has no {implementation}")
    status, shown, _ = in_child(code, COPYD_SHA=implementation)
    assert status == 0
    chosen, frames = shown.split()
    assert (chosen, frames) == (implementation, in_child(code)[1].split()[1])


LIE = """
import hashlib
true, lies = hashlib.sha256, [{lies}]
def sha256(message):
    lies[0] -= 1
    return true(message + b"!" * (lies[0] >= 0))
hashlib.sha256 = sha256
"""


def test_what_differs_from_the_standard_library_does_not_sign():
    """At import each implementation is held against hashlib: a wrong one is passed over, and if all are, there is no module."""
    there = hashing.available()
    status, shown, _ = in_child(LIE.format(lies=1) + SHOW)
    if there[1:]:
        assert (status, shown.split()) == (0, [there[1], *there[1:], there[0]])
    status, _, error = in_child(LIE.format(lies=10**9) + SHOW)
    assert (status, error) == (1, "ImportError: no implementation of SHA-256 agrees with the standard library")
