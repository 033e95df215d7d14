from array import array
from collections.abc import Sequence
from typing import Final

from typing_extensions import disjoint_base

from copyd._fast.columns import Columns

#: What differs from order to order, as it stands in a template; (TIME, n) is n ms later.
QTY: Final[int]
PX: Final[int]
CID: Final[int]
TIME: Final[int]
KEY: Final[int]
PASS: Final[int]
SIGN: Final[int]
LENGTH: Final[int]
BODY: Final[int]

_Template = Sequence[bytes | int | tuple[int, int]]
#: (account, frames or requests back to back, client order ids of 16 bytes, order slots of 4), in the order given
_Burst = tuple[int, bytes, bytes, bytes]
#: (account, instrument, client order id of 16 bytes, lots, ticks or 0, side, position side, reduce_only)
_Row = tuple[int, int, bytes, int, int, int, int, bool]

@disjoint_base
class Renderer:
    @property
    def target(self) -> str: ...
    @property
    def signature(self) -> str: ...
    def __init__(self, target: str, mask_seed: int, signature: str = "hex") -> None: ...
    def set_instrument(self, index: int, price_decimals: int, tick: int, qty_decimals: int, lot: int) -> None: ...
    def set_shape(
        self,
        instrument: int,
        side: int,
        limit: bool,
        position_side: int,
        reduce_only: bool,
        text: _Template,
        *,
        signed: _Template = (),
        body: _Template = (),
    ) -> None: ...
    def set_account(self, index: int, api_key: bytes, secret: bytes, passphrase: bytes = b"") -> None: ...
    def forget_account(self, index: int) -> None: ...
    def render(self, cols: Columns, slots: array[int] | memoryview, timestamp_ms: int) -> list[_Burst]: ...
    def render_rows(self, rows: Sequence[_Row], timestamp_ms: int) -> list[_Burst]: ...
