"""Which instrument is which on another venue: found by what is traded, or as the operator lists it.

A leader's instrument is followed on another venue in its *mirror* there. Without a list those are mirrors that trade the same
base asset against the same quote asset, both spot or both perpetual. A list (``symbols`` of the configuration) names them one by
one, with ``units`` where one venue counts in packs (1000PEPE); what is listed is not looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from copyd.config import Config
from copyd.errors import OperatorError
from copyd.venues.common.instruments import Instrument

Place = tuple[str, str]


def units_of(config: Config) -> dict[Place, int]:
    """(venue, symbol) -> how many of the common base one unit of its base is, as listed."""
    return {(item.venue, item.symbol): item.units for group in config.symbols for item in group.on}


def base_of(config: Config, venue: str, instrument: Instrument) -> tuple[int, int]:
    """One lot in the common base asset, as an exact fraction (not reduced)."""
    units = units_of(config).get((venue, instrument.symbol), 1)
    return instrument.lot * instrument.contract_mul * units, 10**instrument.qty_decimals * instrument.contract_div


def mirrors(config: Config, venues: Sequence[str], instruments: Sequence[Instrument]) -> list[tuple[int, int]]:
    """Every (leader's instrument, its mirror on another venue), in both directions, sorted.

    ``venues``: of each instrument, by its index. ``OperatorError`` where a list names what cannot be a mirror.
    """
    place = {(venues[item.index], item.symbol): item for item in instruments}
    listed = _listed(config, place)
    taken = {place_of for group in config.symbols for place_of in ((item.venue, item.symbol) for item in group.on)}
    groups = list(listed)
    if config.symbol_mapping == "auto":
        groups += _alike([item for at, item in place.items() if at not in taken], venues)
    found = [
        (one.index, other.index)
        for group in groups for one in group for other in group if venues[one.index] != venues[other.index]
    ]  # fmt: skip
    return sorted(found)


def _listed(config: Config, place: Mapping[Place, Instrument]) -> list[list[Instrument]]:
    problems: list[str] = []
    groups: list[list[Instrument]] = []
    for group in config.symbols:
        items = [place[item.venue, item.symbol] for item in group.on if (item.venue, item.symbol) in place]
        quotes = sorted({item.quote_asset for item in items})
        if len(quotes) > 1:
            problems.append(f"{group.name}: quoted in {' and '.join(quotes)}: sizes cannot be put from one into the other")
        if len({item.spot for item in items}) > 1:
            problems.append(f"{group.name}: spot and perpetual are no mirrors of each other")
        groups.append(items)
    if problems:
        raise OperatorError("symbols: " + "; ".join(problems))
    return groups


def _alike(instruments: Sequence[Instrument], venues: Sequence[str]) -> list[list[Instrument]]:
    """Instruments of the same base, quote and nature. Where a venue has two of them, neither is taken: it is not clear which."""
    groups: dict[tuple[str, str, bool], list[Instrument]] = {}
    for item in instruments:
        if item.base_asset:
            groups.setdefault((item.base_asset, item.quote_asset, item.spot), []).append(item)
    clear = []
    for group in groups.values():
        names = [venues[item.index] for item in group]
        clear.append([item for item in group if names.count(venues[item.index]) == 1])
    return clear
