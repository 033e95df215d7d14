"""``copyd exchange``: run the simulated exchange until a signal says stop.

    python -m copyd.exchange.main --port 0 --ws-port 0 --control-port 0 --seed 7 --lift orders --ready-file ready.json
    python -m copyd.exchange.main --dialect okx --seed 7 --lift all --ready-file ready.json

The ready file (JSON: dialect, ports, pid, addresses) appears, whole, once all three ports answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import orjson
import uvloop

from copyd.errors import CopydError, UsageError
from copyd.exchange.batch import BatchOptions
from copyd.exchange.dialect import FUTURES
from copyd.exchange.host import DIALECTS, Host, dialect_of
from copyd.exchange.host import Options as HostOptions
from copyd.exchange.makers import STEP_MS
from copyd.exchange.model import E8, Instrument, refined
from copyd.exchange.server import PING_S, SESSION_S, ExchangeServer, Options, check_lift

BINANCE_USDM = "binance_usdm"


async def serve(options: Options, ready_file: str = "", quiet: bool = False, stop: asyncio.Event | None = None) -> None:
    """Run one exchange of the Binance USD-M dialect until SIGTERM or SIGINT (or ``stop`` is set)."""

    def addresses(ports: dict[str, int]) -> dict[str, Any]:
        return {
            "ws_api": f"ws://{options.host}:{ports['ws']}/ws-fapi/v1",
            "streams": f"ws://{options.host}:{ports['ws']}",
            "batch": _batch_addresses(options, ports),
            "limits_lifted": sorted(options.lift),
        }

    await _serve(ExchangeServer(options), BINANCE_USDM, addresses, ready_file, quiet, stop)


async def serve_host(
    host: Host, ready_file: str = "", quiet: bool = False, stop: asyncio.Event | None = None
) -> None:
    """Run one exchange of another dialect until SIGTERM or SIGINT (or ``stop`` is set)."""
    await _serve(host, host.dialect.name, lambda ports: {"limits_lifted": sorted(host.windows.lifted)}, ready_file, quiet, stop)


async def _serve(
    exchange: ExchangeServer | Host,
    dialect: str,
    more: Callable[[dict[str, int]], dict[str, Any]],
    ready_file: str,
    quiet: bool,
    stop: asyncio.Event | None,
) -> None:
    stopped = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        ports = await exchange.start()
        at = exchange.options.host
        address = {
            "dialect": dialect,
            "pid": os.getpid(),
            "rest": f"http://{at}:{ports['rest']}",
            "ws": f"ws://{at}:{ports['ws']}",
            "control": f"http://127.0.0.1:{ports['control']}",
            "ports": ports,
            "seed": exchange.seed,
            **more(ports),
        }
        if ready_file:
            write_ready(pathlib.Path(ready_file), orjson.dumps(address))
        if not quiet:
            _say(address)
        gc.collect()
        gc.freeze()
        await exchange.run_until(stopped)
    finally:
        await exchange.stop()


def _say(address: dict[str, Any]) -> None:
    """The addresses, for people."""
    print(f"{'dialect':8} {address['dialect']}", flush=True)
    for name in ("rest", "ws", "ws_api", "streams", "control"):
        if name in address:
            print(f"{name:8} {address[name]}", flush=True)
    for place in address.get("batch", ()):
        print(f"{'batch':8} {place}", flush=True)
    print(f"limits lifted: {', '.join(address['limits_lifted']) or 'none'}", flush=True)


def _batch_addresses(options: Options, ports: dict[str, int]) -> list[str]:
    """Where the batch door is, as ``copyd conformance`` takes it."""
    found = [f"{options.host}:{ports['batch']}"] if "batch" in ports else []
    return found + ([f"unix:{options.batch.path}"] if options.batch is not None and options.batch.path else [])


def _batch_options(args: argparse.Namespace) -> BatchOptions | None:
    if args.batch_port is None and not args.batch_socket:
        if args.batch_secret_file:
            raise UsageError("--batch-secret-file needs --batch-port or --batch-socket")
        return None
    if not args.batch_secret_file:
        raise UsageError("the batch door needs --batch-secret-file")
    try:
        secret = pathlib.Path(args.batch_secret_file).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{args.batch_secret_file}: cannot be read: {error.strerror or error}") from None
    if len(secret) < 16:
        raise UsageError(f"{args.batch_secret_file}: the shared secret has {len(secret)} bytes; at least 16 are needed")
    return BatchOptions(host=args.host, port=args.batch_port, path=args.batch_socket, secret=secret)


def write_ready(path: pathlib.Path, body: bytes) -> None:
    """Write the file so that a reader sees all of it or none."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(body)
    part.replace(path)


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return port


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="copyd exchange", description="Run the simulated exchange.")
    p.add_argument("--dialect", choices=(BINANCE_USDM, *DIALECTS), default=BINANCE_USDM, help="whose words it speaks")
    p.add_argument("--host", default="127.0.0.1", help="address of the REST and WebSocket ports (control is loopback only)")
    p.add_argument("--port", type=_port, default=0, help="REST port, 0 = any free one")
    p.add_argument("--ws-port", type=_port, default=0, help="WebSocket port (API and streams), 0 = any free one")
    p.add_argument("--control-port", type=_port, default=0, help="control port, 0 = any free one")
    p.add_argument("--batch-port", type=_port, default=None, help="TCP port of the batch door, 0 = any free one")
    p.add_argument("--batch-socket", default="", metavar="PATH", help="Unix socket of the batch door")
    p.add_argument("--batch-secret-file", default="", metavar="FILE", help="the secret that batch sessions log in with")
    p.add_argument("--seed", type=int, default=1, help="market makers' flow and keys follow from it")
    p.add_argument("--lift", default="", help="limits not to enforce, comma separated, or all")
    p.add_argument("--ready-file", default="", help="write ports and pid here as JSON once everything answers")
    p.add_argument("--no-makers", action="store_true", help="start with empty books")
    p.add_argument("--maker-ms", type=int, default=STEP_MS, help="time between two steps of the market makers, ms")
    p.add_argument("--listen-key-s", type=float, default=3600.0, help="life of a listen key, s")
    p.add_argument("--session-s", type=float, default=None, help="life of a WebSocket connection, s; default: the venue's")
    p.add_argument("--ping-s", type=float, default=None, help="time between the server's pings, s; default: the venue's")
    p.add_argument("--idle-s", type=float, default=None, help="silence after which a connection is closed, s (not Binance)")
    for step in ("tick", "lot"):
        p.add_argument(
            f"--{step}", action="append", default=[], metavar="SYMBOL=SIZE",
            help=f"another {step} size of an instrument, in base or quote asset; may be repeated (not Binance)",
        )  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


def _binance_options(args: argparse.Namespace) -> Options:
    if args.idle_s is not None:
        raise UsageError("--idle-s is not for the dialect binance_usdm, which pings; say --ping-s")
    if args.tick or args.lot:
        raise UsageError("--tick and --lot are not for the dialect binance_usdm")
    return Options(
        host=args.host,
        port=args.port,
        ws_port=args.ws_port,
        control_port=args.control_port,
        seed=args.seed,
        lift=check_lift(args.lift),
        listen_key_s=args.listen_key_s,
        session_s=args.session_s or SESSION_S,
        ping_s=args.ping_s or PING_S,
        makers=not args.no_makers,
        maker_ms=args.maker_ms,
        batch=_batch_options(args),
    )


def _steps(texts: list[str], name: str, known: set[str]) -> dict[str, int]:
    """``SYMBOL=SIZE`` by symbol, in 1e-8."""
    found = {}
    for text in texts:
        symbol, _, size = text.partition("=")
        try:
            exact = Fraction(Decimal(size)) * E8
        except (ArithmeticError, ValueError):
            exact = Fraction(0)
        if symbol not in known or exact <= 0 or exact.denominator != 1:
            raise UsageError(f"--{name} {text}: not SYMBOL=SIZE in steps of 1e-8 (there are {', '.join(sorted(known))})")
        found[symbol] = exact.numerator
    return found


def _instruments(args: argparse.Namespace, own: tuple[Instrument, ...]) -> tuple[Instrument, ...]:
    """The dialect's instruments with the ticks and lots that were asked for."""
    known = {spec.symbol for spec in own}
    ticks, lots = _steps(args.tick, "tick", known), _steps(args.lot, "lot", known)
    return tuple(refined(spec, ticks.get(spec.symbol, 0), lots.get(spec.symbol, 0)) for spec in own)


def _host_of(args: argparse.Namespace) -> Host:
    if _batch_options(args) is not None:
        raise UsageError(f"the batch door is the dialect {BINANCE_USDM}'s")
    options = HostOptions(
        host=args.host,
        port=args.port,
        ws_port=args.ws_port,
        control_port=args.control_port,
        seed=args.seed,
        lift=frozenset(name.strip() for name in args.lift.split(",") if name.strip()),
        session_s=args.session_s or 0.0,
        ping_s=args.ping_s or 0.0,
        idle_s=args.idle_s or 0.0,
        makers=not args.no_makers,
        maker_ms=args.maker_ms,
    )
    make = dialect_of(args.dialect)
    own: tuple[Instrument, ...] | None = getattr(make, "instruments", None)
    return Host(options, make, _instruments(args, own or getattr(make, "market", FUTURES).instruments))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for name in ("maker_ms", "listen_key_s", "session_s", "ping_s", "idle_s"):
            value = getattr(args, name)
            if value is not None and value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0")
        if args.dialect == BINANCE_USDM:
            uvloop.run(serve(_binance_options(args), args.ready_file, args.quiet))
        else:
            uvloop.run(serve_host(_host_of(args), args.ready_file, args.quiet))
    except CopydError as error:
        print(f"copyd exchange: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"copyd exchange: cannot start: {error.strerror or error}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
