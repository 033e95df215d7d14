"""From the configuration to a venue's adapter: its contract with the operator's corrections, its addresses, its parts."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from copyd.config import Config, VenueConfig
from copyd.errors import OperatorError
from copyd.venues.batch.contract import BatchContract
from copyd.venues.batch.signing import read_secret
from copyd.venues.binance_usdm import parts as binance_usdm
from copyd.venues.binance_usdm.contract import CONTRACT as BINANCE_USDM
from copyd.venues.binance_usdm.contract import Endpoints as BinanceUsdmEndpoints
from copyd.venues.ccxt.contract import Endpoints as CcxtEndpoints
from copyd.venues.common.contract import VenueContract
from copyd.venues.common.parts import Hooks, Kind, Making, Parts, SessionParts, Terms

#: Of the venue's own limit, where the operator names none: the rest is for whoever else asks from this address.
WEIGHT_SHARE = (5, 6)


#: Kinds whose private connections belong to one account each; each folder's ``parts.py`` has its ``KIND``.
SESSION_KINDS = ("okx", "bybit", "bitget", "binance_spot", "ccxt")


def contract_of(venue: VenueConfig) -> VenueContract:
    """A venue's contract record with the operator's corrections."""
    record = BINANCE_USDM if venue.kind == "binance_usdm" else _kind(venue).contract
    terms: dict[str, Any] = {
        name: value
        for name in ("engine_delay_ms", "read_lag_ms", "guard_ms")
        if (value := getattr(venue.contract, name)) is not None
    }
    terms |= {
        # Where an order names no end of its own, what the venue takes is a fact and no choice: until then it may come.
        "recv_window_ms": venue.recv_window_ms if record.expiry_field else record.recv_window_ms,
        "order_ack_timeout_ms": venue.order_ack_timeout_ms,
        "clock_error_ms": venue.clock_error_max_ms,
        "streams_per_connection_max": min(venue.accounts_per_stream, record.streams_per_connection_max),
    }
    if record.listen_key_valid_ms:
        terms["listen_key_keepalive_ms"] = venue.keepalive_interval_s * 1000
    if venue.connects_per_5_min is not None:
        terms["connect_attempts_per_5_min"] = venue.connects_per_5_min
    return record.overridden(terms)


def weight_per_min(venue: VenueConfig, contract: VenueContract) -> int:
    """Requests that may be made per minute and address, by the venue's own weights."""
    if venue.request_weight_per_min is not None:
        return venue.request_weight_per_min
    limit = contract.limit("weight", "ip")
    return max(1, limit.limit * 60_000 // limit.interval_ms * WEIGHT_SHARE[0] // WEIGHT_SHARE[1])


def orders_by_rest(venue: VenueConfig) -> bool:
    """Whether orders go by REST alone there."""
    return venue.kind != "binance_usdm" and _kind(venue).by_rest


def rest_of(venue: VenueConfig, clock: Callable[[], int]) -> Any:
    """A session venue's REST client by itself, not yet open."""
    contract = contract_of(venue)
    limit = contract.limit("weight", "ip")
    weight = max(1, weight_per_min(venue, contract) * limit.interval_ms // 60_000)
    _, rest = _kind(venue).make(
        Making(endpoints_of(venue), contract, clock, weight, source_addresses=venue.source_addresses))
    return rest


def sockets_per_account(venue: VenueConfig) -> int:
    """Connections that each account needs; 0 where accounts share them."""
    if venue.kind == "binance_usdm":
        return 0
    kind = _kind(venue)
    endpoints = endpoints_of(venue)
    wire, _ = kind.make(Making(endpoints, kind.contract, lambda: 0))
    return sum(1 for channel in wire.channels(endpoints) if channel.url)


def batch_contract_of(venue: VenueConfig) -> BatchContract:
    """The same for the batch path: an order is valid as long as a signed one would be."""
    terms = contract_of(venue)
    return BatchContract(
        valid_ms=venue.recv_window_ms, order_ack_timeout_ms=venue.order_ack_timeout_ms, clock_error_ms=terms.clock_error_ms,
        engine_delay_ms=terms.engine_delay_ms, read_lag_ms=terms.read_lag_ms, guard_ms=terms.guard_ms,
        connect_timeout_ms=venue.connect_timeout_ms, write_deadline_ms=terms.write_deadline_ms)


def _kind(venue: VenueConfig) -> Kind:
    """What a session venue's folder gives, as it is first needed."""
    if venue.kind not in SESSION_KINDS:
        raise OperatorError(f"venue {venue.name}: no adapter of kind {venue.kind}")
    found: Kind = import_module(f"copyd.venues.{venue.kind}.parts").KIND
    return found


def endpoints_of(venue: VenueConfig) -> Any:
    """The addresses of a venue: the environment's, corrected by those the configuration writes."""
    if venue.kind == "binance_usdm":
        whole = BinanceUsdmEndpoints.of(venue.environment)
        elsewhere = venue.rest_url if venue.rest_url != whole.rest else None
        own = {
            "rest": venue.rest_url, "sapi": venue.sapi_url or elsewhere, "ws_api": venue.ws_api_url,
            "public": venue.public_stream_url, "market": venue.market_stream_url, "private": venue.private_stream_url,
        }  # fmt: skip
        kept = {name: own[name] or getattr(whole, name) for name in own}
        return BinanceUsdmEndpoints(**kept)
    if venue.kind == "ccxt":
        if not venue.exchange_id or not venue.python:
            raise OperatorError(f"venue {venue.name}: kind ccxt needs exchange_id and python")
        return CcxtEndpoints(
            exchange_id=venue.exchange_id, python=venue.python, environment=venue.environment, base=venue.rest_url or "")
    module = import_module(f"copyd.venues.{venue.kind}.contract")
    whole = module.Endpoints.of(venue.environment)
    if venue.rest_url is None and venue.ws_url is None:
        return whole
    if venue.rest_url is None or venue.ws_url is None:
        raise OperatorError(f"venue {venue.name}: rest_url and ws_url go together: name both or neither")
    return module.Endpoints.at(venue.rest_url, venue.ws_url)


def make_parts(config: Config, venue: VenueConfig, hooks: Hooks) -> Parts:
    """The adapter of one venue, not yet open."""
    contract = contract_of(venue)
    weight = weight_per_min(venue, contract)
    if venue.kind == "binance_usdm":
        terms = binance_usdm.Terms(
            order_connections=venue.order_connections, weight_per_min=weight, hot_threads=config.runtime.hot_threads,
            batch=_batch_terms(config, venue),
        )  # fmt: skip
        return binance_usdm.BinanceUsdmParts(contract, endpoints_of(venue), terms, hooks)
    terms_of = Terms(
        weight, config.copy.max_event_age_ms, config.copy.margin_type == "isolated", venue.source_addresses)
    return SessionParts(_kind(venue), contract, endpoints_of(venue), terms_of, hooks)


def _batch_terms(config: Config, venue: VenueConfig) -> binance_usdm.BatchTerms | None:
    if venue.orders.path != "batch":
        return None
    orders, leaders = venue.orders, [leader.id for leader in config.leaders]
    secret: Callable[[], bytes] = lambda: read_secret(Path(orders.secret_file))  # noqa: E731 - read when it is needed
    return binance_usdm.BatchTerms(
        address=orders.address, session=orders.session, secret=secret, contract=batch_contract_of(venue),
        top_leaders=tuple(leaders.index(name) for name in orders.top_leaders),
    )  # fmt: skip
