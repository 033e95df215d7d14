"""``copyd exchange``: run the simulated exchange until a signal says stop.

    python -m copyd.exchange.main --port 0 --ws-port 0 --control-port 0 --seed 7 --lift orders --ready-file ready.json

The ready file (JSON: ports, pid, addresses) appears, whole, once all three ports answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import pathlib
import signal
import sys

import orjson
import uvloop

from copyd.errors import CopydError, UsageError
from copyd.exchange.batch import BatchOptions
from copyd.exchange.limits import LIMITS
from copyd.exchange.makers import STEP_MS
from copyd.exchange.server import ExchangeServer, Options, check_lift


async def serve(options: Options, ready_file: str = "", quiet: bool = False, stop: asyncio.Event | None = None) -> None:
    """Run one exchange until SIGTERM or SIGINT (or ``stop`` is set)."""
    exchange = ExchangeServer(options)
    stopped = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        ports = await exchange.start()
        address = {
            "pid": os.getpid(),
            "rest": f"http://{options.host}:{ports['rest']}",
            "ws_api": f"ws://{options.host}:{ports['ws']}/ws-fapi/v1",
            "streams": f"ws://{options.host}:{ports['ws']}",
            "control": f"http://127.0.0.1:{ports['control']}",
            "ports": ports,
            "batch": _batch_addresses(options, ports),
            "seed": options.seed,
            "limits_lifted": sorted(options.lift),
        }
        if ready_file:
            write_ready(pathlib.Path(ready_file), orjson.dumps(address))
        if not quiet:
            for name in ("rest", "ws_api", "streams", "control"):
                print(f"{name:8} {address[name]}", flush=True)
            for place in _batch_addresses(options, ports):
                print(f"{'batch':8} {place}", flush=True)
            print(f"limits lifted: {', '.join(sorted(options.lift)) or 'none'}", flush=True)
        gc.collect()
        gc.freeze()
        await exchange.run_until(stopped)
    finally:
        await exchange.stop()


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
    p = argparse.ArgumentParser(prog="copyd exchange", description="Run the simulated exchange (Binance USD-M dialect).")
    p.add_argument("--host", default="127.0.0.1", help="address of the REST and WebSocket ports (control is loopback only)")
    p.add_argument("--port", type=_port, default=0, help="REST port, 0 = any free one")
    p.add_argument("--ws-port", type=_port, default=0, help="WebSocket port (API and streams), 0 = any free one")
    p.add_argument("--control-port", type=_port, default=0, help="control port, 0 = any free one")
    p.add_argument("--batch-port", type=_port, default=None, help="TCP port of the batch door, 0 = any free one")
    p.add_argument("--batch-socket", default="", metavar="PATH", help="Unix socket of the batch door")
    p.add_argument("--batch-secret-file", default="", metavar="FILE", help="the secret that batch sessions log in with")
    p.add_argument("--seed", type=int, default=1, help="market makers' flow and keys follow from it")
    p.add_argument("--lift", default="", help=f"limits not to enforce, comma separated: {', '.join(LIMITS)}, or all")
    p.add_argument("--ready-file", default="", help="write ports and pid here as JSON once everything answers")
    p.add_argument("--no-makers", action="store_true", help="start with empty books")
    p.add_argument("--maker-ms", type=int, default=STEP_MS, help="time between two steps of the market makers, ms")
    p.add_argument("--listen-key-s", type=float, default=3600.0, help="life of a listen key, s")
    p.add_argument("--session-s", type=float, default=86400.0, help="life of a WebSocket connection, s")
    p.add_argument("--ping-s", type=float, default=180.0, help="time between the server's pings, s")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for name in ("maker_ms", "listen_key_s", "session_s", "ping_s"):
            if getattr(args, name) <= 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0")
        options = Options(
            host=args.host,
            port=args.port,
            ws_port=args.ws_port,
            control_port=args.control_port,
            seed=args.seed,
            lift=check_lift(args.lift),
            listen_key_s=args.listen_key_s,
            session_s=args.session_s,
            ping_s=args.ping_s,
            makers=not args.no_makers,
            maker_ms=args.maker_ms,
            batch=_batch_options(args),
        )
        uvloop.run(serve(options, args.ready_file, args.quiet))
    except CopydError as error:
        print(f"copyd exchange: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"copyd exchange: cannot start: {error.strerror or error}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
