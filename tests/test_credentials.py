"""Keys: where they may come from, and that they are shown nowhere."""

import copy
import json
import os
import pickle
import secrets

import msgspec
import orjson
import pytest

from copyd.config import CredentialSource
from copyd.credentials import (
    Credential,
    Secret,
    credential_line,
    load_credentials,
    missing_names,
    parse_credentials,
    write_credentials,
)
from copyd.errors import ConfigError


def _line(name="alice", key="key-of-alice", secret="s3cret", **more):
    return json.dumps({"name": name, "key": key, "secret": secret, **more}).encode() + b"\n"


@pytest.fixture
def keys(tmp_path):
    def make(data: bytes, mode: int = 0o600):
        path = tmp_path / "keys.jsonl"
        path.write_bytes(data)
        path.chmod(mode)
        return CredentialSource(file=str(path))

    return make


def test_a_file_of_our_own_with_mode_0600_is_read(keys):
    pem = "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n"
    loaded = load_credentials([keys(_line() + b"\n" + _line("bob", "k", pem, type="ed25519"))])
    assert set(loaded) == {"alice", "bob"}
    assert loaded["alice"].key.reveal() == "key-of-alice"
    assert loaded["alice"].secret.reveal() == "s3cret"
    assert loaded["bob"].kind == "ed25519"
    assert missing_names(loaded, ["bob", "carol", "carol"]) == ["carol"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o700, 0o620])
def test_a_wider_mode_is_refused_with_the_remedy(keys, mode):
    with pytest.raises(ConfigError, match=f"mode {mode:04o} lets others see the keys .chmod 600"):
        load_credentials([keys(_line(), mode)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(keys):
    source = keys(_line())
    os.chown(source.file, 12345, 12345)
    with pytest.raises(ConfigError, match="owned by uid 12345"):
        load_credentials([source])


def test_what_is_not_a_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, words in (("fifo", "not a plain file"), (".", "not a plain file"), ("none", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            load_credentials([CredentialSource(file=str(tmp_path / name))])


def test_every_bad_line_is_named_and_none_is_quoted(keys):
    canary = secrets.token_hex(24)
    lines = [
        _line(),
        _line(),
        f'{{"name": "a", "key": "{canary}"'.encode() + b"\n",
        f'["{canary}"]'.encode() + b"\n",
        _line("b", canary, ""),
        _line("c d", canary, canary),
        _line("e", canary + " x", canary),
        _line("f", canary, canary, comment=canary),
        _line("g", canary, canary, type="rsa"),
        _line("h", canary, canary, type="ed25519"),
        b"\xff" + canary.encode() + b"\n",
        f'{{"name": "i", "key": 5, "secret": "{canary}"}}'.encode() + b"\n",
        f"alice,{canary},{canary}".encode() + b"\n",
    ]
    source = keys(b"".join(lines))
    with pytest.raises(ConfigError) as caught:
        load_credentials([source])
    problems = caught.value.problems
    assert [problem.split(": ")[0] for problem in problems] == [f"{source.file}:{n}" for n in range(2, 14)]
    assert f"the name alice is already at {source.file}:1" in problems[0]
    assert canary not in str(caught.value)


def test_the_same_name_in_two_sources_is_refused(keys, tmp_path):
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "keys").write_bytes(_line())
    (directory / "keys").chmod(0o400)
    sources = [keys(_line()), CredentialSource(credential="keys")]
    with pytest.raises(ConfigError, match="credential keys:1: the name alice is already at"):
        load_credentials(sources, {"CREDENTIALS_DIRECTORY": str(directory)})


def test_a_systemd_credential_is_read_from_its_directory(tmp_path):
    path = tmp_path / "exchange-keys"
    path.write_bytes(_line())
    path.chmod(0o440)  # as the manager gives it, with an access list for the unit's user
    source = CredentialSource(credential="exchange-keys")
    assert set(load_credentials([source], {"CREDENTIALS_DIRECTORY": str(tmp_path)})) == {"alice"}
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="anyone on this machine can read it"):
        load_credentials([source], {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(ConfigError, match="LoadCredential=exchange-keys"):
        load_credentials([source], {})


def test_a_secret_shows_itself_nowhere():
    """repr, str, format, %, JSON of three kinds, pickle, copy, and inside other things."""
    canary = secrets.token_hex(24)
    secret = Secret(canary)
    credential = Credential("alice", Secret(canary), secret)
    texts = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s %r" % (secret, secret), repr(credential)]  # noqa: UP031
    texts += [str([secret]), str({"a": credential}), repr(load_credentials([]))]
    assert canary not in "".join(texts)
    for thing in (secret, credential):
        for attempt in (json.dumps, orjson.dumps, msgspec.json.encode, msgspec.msgpack.encode, pickle.dumps, copy.copy):
            with pytest.raises(TypeError) as caught:
                attempt(thing)
            assert canary not in str(caught.value)
        with pytest.raises(TypeError):
            copy.deepcopy({"x": thing})
    assert not hasattr(secret, "__dict__")
    assert secret == Secret(canary)
    assert secret != canary


def test_a_written_file_is_private_from_the_first_byte_and_replaces_nothing(tmp_path):
    path = tmp_path / "keys.jsonl"
    write_credentials(path, [credential_line("a", "k", "s"), credential_line("b", "k", "s")])
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(load_credentials([CredentialSource(file=str(path))])) == {"a", "b"}
    with pytest.raises(FileExistsError):
        write_credentials(path, [])


def test_a_hopeless_file_gets_a_bounded_answer():
    entries, problems = parse_credentials("f", b"x\n" * 10_000)
    assert not entries
    assert len(problems) == 201
