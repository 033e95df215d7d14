"""The transfer file: what is to move from whose account to whose, canonical and signed, written before anything moves.

JSON lines, keys sorted, money as decimal text::

    {"as_of","format","key","platform_account","period","site","snapshot","total","transfers","what":"header","mac"}
    {"amount","from","id","part","plan","to","what":"transfer","mac"}        one per payment, by plan and part
    {"account","net","what":"account","mac"}                                 one per account; all nets add up to 0
    {"lines","what":"end","mac"}

``mac`` is HMAC-SHA256 with the operator's key over the mac before it and this line without its mac, first 16 bytes in hex.
What it proves: every line was written by somebody who holds that key, in this order, and nothing was changed, left out or
added since. It does not prove who of the holders wrote it, and says nothing on whether the transfers were carried out.

A transfer's id depends on site, period, plan and part alone: the same payment has the same id however often it is written.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import orjson

from copyd.errors import OperatorError, SettlementRefused
from copyd.settlement.calculate import PlanResult
from copyd.settlement.snapshot import Snapshot
from copyd.settlement.text import money, money_of

FORMAT = "copyd transfers 1"
Part = Literal["leader", "platform"]
PARTS: tuple[Part, ...] = get_args(Part)
KEY_BYTES_MIN = 32
MAC_BYTES = 16


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """One payment of one plan, 1e-8."""

    id: str
    plan: str
    part: Part
    source: str
    to: str
    amount_e8: int


class TransferFile(msgspec.Struct, frozen=True):
    """A file that was read and found whole."""

    header: dict[str, Any]
    transfers: list[Transfer]
    net_e8: dict[str, int]


class TransferFileRefused(OperatorError):
    """A transfer file that is not what its writer signed; ``line`` is the first line that does not agree."""

    exit_code = 65

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}; nothing of this file may be carried out")
        self.line = line


def transfer_id(site: int, period: str, plan: str, part: str) -> str:
    """32 hex characters that name one payment for ever."""
    text = "\x1f".join((str(site), period, plan, part))
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"copyd transfer").hexdigest()


def transfers_of(snapshot: Snapshot, results: Iterable[PlanResult]) -> list[Transfer]:
    """The payments of a period, by plan and part."""
    found = []
    for result in results:
        plan, payment = result.plan, result.payment
        parts = (("leader", plan.leader_account, payment.leader_e8), ("platform", snapshot.platform_account, payment.platform_e8))
        for part, to, amount in parts:
            if amount:
                number = transfer_id(snapshot.site, snapshot.period, plan.plan, part)
                found.append(Transfer(number, plan.plan, part, plan.follower_account, to, amount))  # type: ignore[arg-type]
    return found


def load_key(path: Path) -> bytes:
    """The operator's signing key: hex, 32 bytes or more, readable by its owner alone. OperatorError says what is wrong."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OperatorError(f"{path}: the key can be read by others: chmod 600 {path}")
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}; make a key with: openssl rand -hex 32 > {path}") from None
    except ValueError:
        raise OperatorError(f"{path}: not hexadecimal; make a key with: openssl rand -hex 32 > {path}") from None
    if len(key) < KEY_BYTES_MIN:
        raise OperatorError(f"{path}: {len(key)} bytes, a key has at least {KEY_BYTES_MIN}: openssl rand -hex 32 > {path}")
    return key


def key_name(key: bytes) -> str:
    """What a key is called in files and messages: tells keys apart, tells nothing about them."""
    return hmac.new(key, b"copyd key name", hashlib.sha256).hexdigest()[:8]


def net_of(transfers: Iterable[Transfer]) -> dict[str, int]:
    """What each account gains or loses; debits equal credits, so it adds up to 0."""
    net: dict[str, int] = {}
    for one in transfers:
        net[one.source] = net.get(one.source, 0) - one.amount_e8
        net[one.to] = net.get(one.to, 0) + one.amount_e8
    return net


def encode_transfers(snapshot: Snapshot, digest: str, transfers: list[Transfer], key: bytes) -> bytes:
    """The file's bytes; ``digest`` is the snapshot's."""
    return b"".join(_signed(_lines(snapshot, digest, transfers, key_name(key)), key))


def _lines(snapshot: Snapshot, digest: str, transfers: list[Transfer], key: str) -> Iterator[dict[str, Any]]:
    net = net_of(transfers)
    yield {
        "what": "header", "format": FORMAT, "site": snapshot.site, "period": snapshot.period, "as_of": snapshot.as_of,
        "snapshot": digest, "platform_account": snapshot.platform_account, "key": key, "transfers": len(transfers),
        "total": money(sum(one.amount_e8 for one in transfers)),
    }  # fmt: skip
    for one in transfers:
        yield {
            "what": "transfer", "id": one.id, "plan": one.plan, "part": one.part, "from": one.source, "to": one.to,
            "amount": money(one.amount_e8),
        }  # fmt: skip
    for account in sorted(net):
        yield {"what": "account", "account": account, "net": money(net[account])}
    yield {"what": "end", "lines": len(transfers) + len(net) + 2}


def _signed(lines: Iterable[dict[str, Any]], key: bytes) -> Iterator[bytes]:
    mac = b""
    for line in lines:
        mac = _mac(key, mac, line)
        yield orjson.dumps({**line, "mac": mac.hex()}, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _mac(key: bytes, before: bytes, line: dict[str, Any]) -> bytes:
    return hmac.digest(key, before + orjson.dumps(line, option=orjson.OPT_SORT_KEYS), "sha256")[:MAC_BYTES]


def read_transfers(path: Path, key: bytes) -> TransferFile:
    """Read a file and check all of it: every line's signature, ids, totals, debits against credits.

    Raises TransferFileRefused naming the first line that does not agree, OperatorError when it cannot be read.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    lines = list(_verified(path, body, key))
    header = lines[0]
    transfers: list[Transfer] = []
    net: dict[str, int] = {}
    for number, line in enumerate(lines[1:-1], 2):
        try:
            if line["what"] == "transfer":
                transfers.append(_transfer(header, line))
            else:
                net[line["account"]] = money_of(line["net"])
        except (KeyError, ValueError, TypeError) as error:
            raise TransferFileRefused(path, number, f"{error}") from None
    total = sum(one.amount_e8 for one in transfers)
    if len(transfers) != header["transfers"] or money(total) != header["total"]:
        raise TransferFileRefused(path, 1, f"{len(transfers)} transfers of {money(total)} are not what the header says")
    if net != net_of(transfers) or sum(net.values()) != 0:
        raise TransferFileRefused(path, len(transfers) + 2, "the accounts' nets are not what the transfers make")
    return TransferFile(header, transfers, net)


def _verified(path: Path, body: bytes, key: bytes) -> Iterator[dict[str, Any]]:
    """Line after line as signed; the last one must be the end."""
    mac = b""
    number = 0
    line: dict[str, Any] = {}
    for number, text in enumerate(body.splitlines(keepends=True), 1):
        if line.get("what") == "end":
            raise TransferFileRefused(path, number, "there is more after the end")
        try:
            line = orjson.loads(text)
            said = bytes.fromhex(line.pop("mac"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TransferFileRefused(path, number, "not a signed line") from None
        if number == 1 and line.get("key") != key_name(key):
            raise TransferFileRefused(path, 1, f"signed with key {line.get('key')}, the key given is {key_name(key)}")
        mac = _mac(key, mac, line)
        canonical = orjson.dumps({**line, "mac": mac.hex()}, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
        if not hmac.compare_digest(said, mac) or canonical != text:
            raise TransferFileRefused(path, number, "this line is not as it was signed")
        yield line
    if line.get("what") != "end" or line.get("lines") != number:
        raise TransferFileRefused(path, number + 1, "the file ends before its end line")


def _transfer(header: dict[str, Any], line: dict[str, Any]) -> Transfer:
    if line["id"] != transfer_id(header["site"], header["period"], line["plan"], line["part"]) or line["part"] not in PARTS:
        raise ValueError(f"transfer {line['id']} is not that of plan {line['plan']}, {line['part']}")
    amount = money_of(line["amount"])
    if amount <= 0:
        raise ValueError(f"transfer {line['id']}: {line['amount']} is not above 0")
    return Transfer(line["id"], line["plan"], line["part"], line["from"], line["to"], amount)


def write_durably(path: Path, body: bytes) -> None:
    """All of it on disk or none: a reader never sees half a file, a power cut neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SettlementRefused([f"{path}: {error.strerror}; nothing was moved"]) from error
