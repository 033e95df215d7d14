"""What venues say of a key: every documented shape, and nothing unread taken for harmless."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.binance_spot import rights as spot
from copyd.venues.binance_usdm import rights as usdm
from copyd.venues.bitget import rights as bitget
from copyd.venues.bybit import rights as bybit
from copyd.venues.common.rights import bound
from copyd.venues.common.venue import Rights
from copyd.venues.okx import rights as okx

BINANCE: dict[str, Any] = {
    "ipRestrict": True, "createTime": 1698645219000, "enableReading": True, "enableWithdrawals": False,
    "enableInternalTransfer": False, "enableMargin": False, "enableFutures": True, "permitsUniversalTransfer": False,
    "enableVanillaOptions": False, "enableFixApiTrade": False, "enableFixReadOnly": True, "enableSpotAndMarginTrading": True,
    "enablePortfolioMarginTrading": False,
}


def binance(**more: Any) -> bytes:
    return json.dumps({**BINANCE, **more}).encode()


def okx_body(perm: Any = "read_only,trade", ip: Any = "192.0.2.1,192.0.2.2", **more: Any) -> bytes:
    row = {"uid": "44705892343619584", "mainUid": "44705892343619584", "acctLv": "2", "perm": perm, "ip": ip, **more}
    return json.dumps({"code": "0", "data": [row], "msg": ""}).encode()


def bybit_body(permissions: Any = None, ips: Any = ("192.0.2.1",), read_only: Any = 0, **more: Any) -> bytes:
    if permissions is None:
        permissions = {
            "ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": [], "Options": ["OptionsTrade"],
            "Derivatives": ["DerivativesTrade"], "CopyTrading": [], "BlockTrade": [], "Exchange": ["ExchangeHistory"],
            "NFT": [], "Affiliate": [], "Earn": ["Earn"],
        }
    result = {
        "id": "13770661", "note": "n", "apiKey": "k", "readOnly": read_only, "secret": "", "permissions": permissions,
        "ips": list(ips) if isinstance(ips, tuple) else ips, "type": 1, "deadlineDay": 83, "expiredAt": "2023-05-15T03:21:05Z",
        "uta": 1, "userID": 24617703, "isMaster": True, **more,
    }
    return json.dumps({"retCode": 0, "retMsg": "", "result": result, "retExtInfo": {}, "time": 1}).encode()


def bitget_body(authorities: Any = ("coor", "coow", "cpow", "stow"), ips: Any = "192.0.2.1", **more: Any) -> bytes:
    listed = list(authorities) if isinstance(authorities, tuple) else authorities
    data = {"userId": "42", "inviterId": "7", "ips": ips, "authorities": listed, "parentId": 1, **more}
    return json.dumps({"code": "00000", "msg": "success", "requestTime": 1, "data": data}).encode()


def bitget_v3(permissions: Any = ("uta_trade",), kind: Any = "read-and-write", ips: Any = "192.0.2.1") -> bytes:
    listed = list(permissions) if isinstance(permissions, tuple) else permissions
    data = {"uid": "42", "parentId": "", "ips": ips, "permType": kind, "permissions": listed, "regisTime": "1"}
    return json.dumps({"code": "00000", "msg": "success", "requestTime": 1, "data": data}).encode()


READERS: dict[str, tuple[Callable[[bytes], Rights], bytes]] = {
    "binance_usdm": (usdm.rights_of, binance()), "binance_spot": (spot.rights_of, binance()), "okx": (okx.rights_of, okx_body()),
    "bybit": (bybit.rights_of, bybit_body()), "bitget": (bitget.rights_of, bitget_body()),
    "bitget v3": (bitget.rights_of, bitget_v3()),
}


@pytest.mark.parametrize("name", READERS)
def test_a_key_that_only_trades(name: str) -> None:
    """The documented answer for a bound trading key: it reads, it trades, it moves nothing, nothing in it is unknown."""
    read, body = READERS[name]
    rights = read(body)
    assert (rights.read, rights.trade, rights.moves_funds, rights.ip_bound, rights.unknown) == (True, True, (), True, ())


@pytest.mark.parametrize(("read", "body", "moves"), [
    *((reader, binance(**{name: True}), name) for reader in (usdm.rights_of, spot.rights_of) for name in usdm.MOVES_FUNDS),
    (okx.rights_of, okx_body("read_only,withdraw,trade"), "withdraw"),
    (okx.rights_of, okx_body("read_only, withdraw"), "withdraw"),
    *((bybit.rights_of, bybit_body({group: [name]}), f"{group}.{name}")
      for group, names in bybit.MOVES_FUNDS.items() for name in sorted(names)),
    (bybit.rights_of, bybit_body({"Wallet": ["Withdraw"]}, read_only=1), "Wallet.Withdraw"),
    *((bitget.rights_of, bitget_body((name, "coow")), name) for name in sorted(bitget.MOVES_FUNDS)),
    *((bitget.rights_of, bitget_v3((name, "uta_trade")), name)
      for name in sorted(bitget.MOVES_FUNDS_V3 | bitget.MOVES_FUNDS_V3_WRITE)),
    (bitget.rights_of, bitget_v3(("withdraw",), "read-only"), "withdraw"),
])  # fmt: skip
def test_every_right_to_move_funds_is_named(read: Callable[[bytes], Rights], body: bytes, moves: str) -> None:
    """Withdrawals and transfers alike, as the venue calls them; they are no unknown rights."""
    rights = read(body)
    assert rights.moves_funds == (moves,) and not rights.unknown


@pytest.mark.parametrize(("read", "body", "unknown"), [
    (usdm.rights_of, binance(enableTimeTravel=True), "enableTimeTravel"),
    (usdm.rights_of, binance(permitsAnything="yes"), "permitsAnything"),
    (usdm.rights_of, binance(somethingNew=True), "somethingNew"),
    (okx.rights_of, okx_body("read_only,trade,lend"), "lend"),
    (bybit.rights_of, bybit_body({"ContractTrade": ["Order", "Position", "Gift"]}), "ContractTrade.Gift"),
    (bybit.rights_of, bybit_body({"Lottery": ["Play"]}), "Lottery.Play"),
    (bybit.rights_of, bybit_body({"Spot": ["Withdraw"]}), "Spot.Withdraw"),
    (bitget.rights_of, bitget_body(("coow", "zzow")), "zzow"),
    (bitget.rights_of, bitget_v3(("uta_trade", "coow")), "coow"),
])  # fmt: skip
def test_a_right_nobody_described_is_unknown(read: Callable[[bytes], Rights], body: bytes, unknown: str) -> None:
    """What our table does not know is named, so that the policy refuses it."""
    rights = read(body)
    assert rights.unknown == (unknown,) and not rights.moves_funds


@pytest.mark.parametrize(("read", "body", "trade", "bound_to", "ips"), [
    (usdm.rights_of, binance(enableFutures=False), False, True, ()),
    (spot.rights_of, binance(enableFutures=False), True, True, ()),
    (spot.rights_of, binance(enableSpotAndMarginTrading=False), False, True, ()),
    (usdm.rights_of, binance(ipRestrict=False), True, False, ()),
    (usdm.rights_of, binance(somethingOld=False, note="text", stamp=5), True, True, ()),
    (okx.rights_of, okx_body("read_only"), False, True, ("192.0.2.1", "192.0.2.2")),
    (okx.rights_of, okx_body("trade", ""), True, False, ()),
    (okx.rights_of, okx_body("", ""), False, False, ()),
    (bybit.rights_of, bybit_body(read_only=1), False, True, ("192.0.2.1",)),
    (bybit.rights_of, bybit_body({"Spot": ["SpotTrade"]}), False, True, ("192.0.2.1",)),
    (bybit.rights_of, bybit_body({"ContractTrade": ["Position"]}), False, True, ("192.0.2.1",)),
    (bybit.rights_of, bybit_body(ips=("*",)), True, False, ("*",)),
    (bybit.rights_of, bybit_body(ips=()), True, False, ()),
    (bitget.rights_of, bitget_body(("trade", "readonly")), True, True, ("192.0.2.1",)),
    (bitget.rights_of, bitget_body(("readonly",), ""), False, False, ()),
    (bitget.rights_of, bitget_body(("coor", "stow")), False, True, ("192.0.2.1",)),
    (bitget.rights_of, bitget_v3(("uta_mgt", "uta_trade"), "read-only"), False, True, ("192.0.2.1",)),
    (bitget.rights_of, bitget_v3(ips="192.0.2.1, 198.51.100.0/24"), True, True, ("192.0.2.1", "198.51.100.0/24")),
])  # fmt: skip
def test_trading_and_addresses(
    read: Callable[[bytes], Rights], body: bytes, trade: bool, bound_to: bool, ips: tuple[str, ...]
) -> None:
    """Whether the key trades the product asked about, and which addresses it is bound to."""
    rights = read(body)
    assert (rights.trade, rights.ip_bound, rights.ips) == (trade, bound_to, ips)
    assert not rights.moves_funds and not rights.unknown


def test_products_of_one_account_are_told_apart() -> None:
    """The same answer says another thing of spot than of perpetuals."""
    assert bybit.rights_of(bybit_body({"Spot": ["SpotTrade"]}), product="spot").trade
    assert bitget.rights_of(bitget_body(("stow",)), product="spot").trade
    assert not bitget.rights_of(bitget_body(("coow",)), product="spot").trade


def test_account_and_expiry_are_taken_over() -> None:
    """Who the key belongs to, where the venue says so, and when it lapses; the beginning of time is never."""
    assert okx.rights_of(okx_body()).account_id == "44705892343619584"
    assert bitget.rights_of(bitget_body()).account_id == bitget.rights_of(bitget_v3()).account_id == "42"
    told = bybit.rights_of(bybit_body())
    assert (told.account_id, told.expires_ms) == ("24617703", 1684120865000)
    for never in ("1970-01-01T00:00:00Z", ""):
        assert bybit.rights_of(bybit_body(expiredAt=never)).expires_ms == 0
    assert usdm.rights_of(binance(tradingAuthorityExpirationTime=1628985600000)).expires_ms == 1628985600000


MALFORMED = [b"", b"{", b"null", b"[]", b"1", b'"text"', b"{}", b"\xff\xfe", b'{"code":"0"}', b'{"code":"00000","data":[]}',
             b'{"code":"0","data":[]}', b'{"code":"0","data":[1]}', b'{"retCode":0,"result":null}', b'{"retCode":true}']


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("body", MALFORMED)
def test_what_cannot_be_read_is_an_error(name: str, body: bytes) -> None:
    """One ``ValueError``, never a right too few."""
    with pytest.raises(ValueError):
        READERS[name][0](body)


@pytest.mark.parametrize(("read", "body"), [
    *((usdm.rights_of, binance(**{name: wrong})) for name in (*usdm.MOVES_FUNDS, "enableReading", "ipRestrict", "enableFutures")
      for wrong in ("false", 0, None)),
    *((usdm.rights_of, json.dumps({k: v for k, v in BINANCE.items() if k != name}).encode())
      for name in (*usdm.MOVES_FUNDS, "enableReading", "ipRestrict", "enableFutures")),
    (usdm.rights_of, binance(tradingAuthorityExpirationTime="soon")),
    *((okx.rights_of, okx_body(wrong)) for wrong in (None, ["trade"], 1)),
    (okx.rights_of, okx_body(ip=None)),
    (okx.rights_of, b'{"code":"50111","msg":"Invalid OK-ACCESS-KEY","data":[]}'),
    *((bybit.rights_of, bybit_body(wrong)) for wrong in ([], "all", {"Spot": "SpotTrade"}, {"Spot": [1]}, {"Spot": None})),
    *((bybit.rights_of, bybit_body(ips=wrong)) for wrong in (None, "192.0.2.1", [1])),
    *((bybit.rights_of, bybit_body(read_only=wrong)) for wrong in (None, 2, "0", False)),
    *((bybit.rights_of, bybit_body(expiredAt=wrong)) for wrong in (5, "tomorrow", "2023-05-15T03:21:05")),
    (bybit.rights_of, b'{"retCode":10003,"retMsg":"API key is invalid.","result":{}}'),
    *((bitget.rights_of, bitget_body(wrong)) for wrong in (None, "trade", [1], {})),
    *((bitget.rights_of, bitget_body(ips=wrong)) for wrong in (None, ["192.0.2.1"])),
    *((bitget.rights_of, bitget_v3(kind=wrong)) for wrong in (None, "write", 1)),
    (bitget.rights_of, bitget_v3(None)),
    (bitget.rights_of, b'{"code":"40012","msg":"apikey/passphrase is incorrect","data":null}'),
])  # fmt: skip
def test_wrong_types_and_missing_fields_are_errors(read: Callable[[bytes], Rights], body: bytes) -> None:
    """A right the answer does not speak of, or in another type than documented, is not read as "no"."""
    with pytest.raises(ValueError):
        read(body)


@given(st.sampled_from(sorted(READERS)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["code", "data", "retCode", "result", "perm", "ip", "ips", "permissions", "authorities", "readOnly"]),
        inner, max_size=4), max_leaves=12))  # fmt: skip
def test_no_answer_raises_anything_but_a_value_error(name: str, value: Any) -> None:
    """A counterparty's frame never raises anything else."""
    with contextlib.suppress(ValueError):
        READERS[name][0](json.dumps(value).encode())


@pytest.mark.parametrize(("ips", "is_bound"), [
    ((), False), (("*",), False), (("0.0.0.0/0",), False), (("192.0.2.1", "::/0"), False), (("10.0.0.0/8",), True),
    (("192.0.2.1",), True),
])  # fmt: skip
def test_an_address_list_that_lets_everybody_in_binds_nothing(ips: tuple[str, ...], is_bound: bool) -> None:
    """``*`` and networks of all addresses are no restriction."""
    assert bound(ips) is is_bound
