"""``copyd bench compare``: the yardsticks do the work they are held up for, and the table says what was measured."""

from __future__ import annotations

import asyncio
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from copyd.bench import compare, main, programs, world
from copyd.bench import line as delay
from copyd.bench.compare import Row, Spread, beside, judged, p50, ratios, shown
from copyd.bench.plot import skew_svg
from copyd.bench.programs import Drain, Pieces, Program, build, check_batch, check_signed
from copyd.errors import OperatorError, WorldError

N = 200
needs_compiler = pytest.mark.skipif(programs.compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("floor"))


async def bursts(built, tmp_path: Path, *words: str, count: int = 4, unix: bool = False) -> tuple[list[Pieces], list[dict]]:
    """What the peer received of each burst, and what the floor said about it."""
    drain = await Drain.start(built["drain"], tmp_path / "peer")
    where = ["--unix", str(drain.unix)] if unix else ["--port", str(drain.port)]
    floor = await Program.start("floor", [str(built["floor"]), words[0], *where, "--followers", str(N), *words[1:]])
    pieces, said = [], []
    try:
        for _ in range(count):
            said.append(await floor.ask("go"))
            arrived = await drain.report(said[-1]["orders"], tmp_path / "pieces")
            assert (arrived.orders, arrived.bytes, arrived.sum) == (N, said[-1]["bytes"], said[-1]["sum"])
            assert said[-1]["event_ns"] < arrived.first_ns <= arrived.last_ns
            assert 0 < said[-1]["first_ns"] <= said[-1]["last_ns"]
            pieces.append(Pieces.read(tmp_path / "pieces"))
    finally:
        await floor.stop()
        await drain.stop()
    return pieces, said


@needs_compiler
@pytest.mark.parametrize("more", [
    (), ("--threads", "2"), ("--connections", "1", "--cap", "1000"), ("--hash", "plain", "--seed", "7"), ("--streams", "one"),
    ("--journal", "J", "--sync", "fdatasync"), ("--journal", "J", "--sync", "map"),
], ids=" ".join)
async def test_the_floor_sends_what_the_encoder_would(built, tmp_path, more):
    """Every order of an opening and a closing event is whole, once, and in text and signature what the encoder's twin gives;
    however many threads, whatever the journal and the hash."""
    words = ["signed", *(str(tmp_path / "journal") if word == "J" else word for word in more)]
    seed = 7 if "--seed" in more else 1
    pieces, said = await bursts(built, tmp_path, *words)
    ids = set()
    for found in pieces:
        assert check_signed(found, N, seed) == []
        ids |= {json.loads(text)["id"] for _, _, text in found.pieces}
    assert len(ids) == 4 * N, "an id is used again"
    sides = [{json.loads(text)["params"]["side"] for _, _, text in found.pieces} for found in pieces]
    assert sides == [{"BUY"}, {"SELL"}, {"SELL"}, {"BUY"}], "long opened, closed, short opened, closed"
    assert ("fdatasync" in more) == (said[-1]["sync_ns"] > 0)


@needs_compiler
@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
async def test_the_floor_packs_a_batch(built, tmp_path, unix):
    """Every follower's record is there, once."""
    pieces, _ = await bursts(built, tmp_path, "batch", "--journal", str(tmp_path / "journal"), "--sync", "map", unix=unix)
    assert [check_batch(found, N) for found in pieces] == [[]] * 4


@needs_compiler
async def test_the_floor_can_wait_for_a_leader(built, tmp_path):
    """With a leader's port the event is the bytes that arrive there, and its price becomes the order's."""
    waiting: list[asyncio.StreamWriter] = []
    leader = await asyncio.start_server(lambda _, writer: waiting.append(writer), "127.0.0.1", 0)
    port = leader.sockets[0].getsockname()[1]
    drain = await Drain.start(built["drain"], tmp_path / "peer")
    floor = await Program.start("floor", [
        str(built["floor"]), "signed", "--port", str(drain.port), "--followers", str(N), "--leader", str(port)])
    told = asyncio.create_task(floor.ask("go"))
    await asyncio.sleep(0.05)
    assert not told.done()
    waiting[0].write(world.leader_frame(world.LeaderTrade(1, 1, 500, 600_000), 0))
    assert (await told)["orders"] == N
    await drain.report(N, tmp_path / "pieces")
    await floor.stop()
    await drain.stop()
    leader.close()
    waiting[0].close()
    found = Pieces.read(tmp_path / "pieces")
    assert check_signed(found, N, 1) == []
    assert {json.loads(text)["params"]["price"] for _, _, text in found.pieces} == {"60300"}


@needs_compiler
async def test_a_program_that_fails_says_why(built):
    """Its own words reach the one who started it."""
    with pytest.raises(WorldError, match="floor ended: floor: followers, connections"):
        await Program.start("floor", [str(built["floor"]), "signed", "--followers", "0"])


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    """One message, and what to do."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OperatorError, match="no C compiler: apt install gcc"):
        build(tmp_path)


def test_the_check_finds_what_is_wrong():
    """An order that is missing, there twice, unsigned, or no order."""
    def order(account: int, cid: str, change: str = "") -> tuple[int, int, bytes]:
        from copyd.venues.binance_usdm.signing import place_text

        text = place_text(
            world.key(1, account), symbol="BTCUSDT", price_decimals=2, tick=10, qty_decimals=3, lot=1, cid=bytes.fromhex(cid),
            order_qty=12, limit_px=650_000, side=1, position_side=0, reduce_only=False, timestamp_ms=1, recv_window_ms=2000)
        return (1, 1, text.replace(b"0.012", change.encode()) if change else text)

    one, two = order(0, "aa" * 16), order(1, "bb" * 16)
    assert check_signed(Pieces([one, two]), 2, 1) == []
    assert check_signed(Pieces([one]), 2, 1) == ["1 orders instead of 2"]
    assert check_signed(Pieces([one, one]), 2, 1) == ["2 orders have 1 ids of 1 accounts"]
    assert check_signed(Pieces([order(0, "aa" * 16, "0.013"), two]), 2, 1) == ["order 0: its signature is wrong"]
    assert "not as agreed" in check_signed(Pieces([order(0, "aa" * 16, "0.0125"), two]), 2, 1)[0]
    assert "cannot be read" in check_signed(Pieces([(1, 1, b"{"), two]), 2, 1)[0]


def own_network() -> Path:
    """The network namespace of this thread."""
    return Path("/proc/thread-self/ns/net").readlink()


@needs_compiler
async def test_the_line_delays_and_carries_everything(built, tmp_path):
    """Orders reach the far side whole, not before the delay; sockets made inside belong to the near side, later ones do not."""
    if (reason := delay.missing()) is not None:
        pytest.skip(f"needs {reason}")
    line = delay.Line(built["line"])
    home = own_network()
    try:
        await line.start()
    except WorldError as problem:
        pytest.skip(f"this machine allows no delay line: {problem}")
    try:
        with line.inside():
            assert own_network() != home
        assert own_network() == home
        line.set(tcp_slow_start_after_idle=0)
        assert line.get("tcp_slow_start_after_idle") == "0"
        drain = await Drain.start(built["drain"], tmp_path / "peer", delay.FAR, line.far)
        floor = await Program.start("floor", [
            str(built["floor"]), "signed", "--host", delay.FAR, "--port", str(drain.port), "--followers", str(N)], line.near)
        said = await floor.ask("go")
        arrived = await drain.report(N, tmp_path / "pieces")
        windows = (await floor.ask("cwnd"))["cwnd"]
        await floor.stop()
        await drain.stop()
    finally:
        await line.stop()
    assert check_signed(Pieces.read(tmp_path / "pieces"), N, 1) == []
    assert arrived.sum == said["sum"]
    assert arrived.first_ns - said["event_ns"] >= delay.DELAY_US * 1000
    assert len(windows) == 16 and min(windows) >= 10


async def test_the_line_needs_root(monkeypatch):
    """And says so, before anything is tried."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert delay.missing() == "root (network namespaces)"


# -- the table ------------------------------------------------------------------------------------------------------------


def test_a_ratio_is_one_of_medians_within_a_round():
    """A machine that is slow in one round is so for both: the rounds' ratios are 2, 3 and 1.5, whatever the level."""
    ours, theirs = [[20, 22, 900], [300, 300, 300], [3, 3, 3]], [[11, 11, 11], [100, 100, 5000], [2, 1, 2]]
    assert ratios(ours, theirs) == Spread(2.0, 1.5, 3.0)
    assert p50([[1, 2], [3, 4, 5]]) == 3


def test_a_target_is_reached_at_its_limit():
    """And a row without a figure has neither reached nor missed it."""
    assert judged(Row(name="x"), 1.15, 1.15, "").reached is True
    assert judged(Row(name="x"), 1.16, 1.15, "").reached is False
    assert judged(Row(name="x"), 100.0, 100, "", at_least=True).reached is True
    assert judged(Row(name="x"), 99.9, 100, "", at_least=True).reached is False
    assert judged(Row(name="x"), None, 1, "<= 1").reached is None


def test_a_row_says_what_it_knows():
    """Figures, the ratio with its spread, the verdict; a dash and no verdict where nothing was measured."""
    row = judged(Row(name="signed", copyd=1550.0, yardstick=1408.0, ratio=Spread(1.13, 1.07, 1.16)), 1.13, 1.15, "ratio <= 1.15")
    assert shown(row).split() == ["signed", "us", "1,550", "1,408", "1.13", "(1.07..1.16)", "ratio", "<=", "1.15", "yes"]
    row = judged(Row(name="batch", yardstick=0.5, note="not measured"), None, 1.25, "ratio <= 1.25")
    assert shown(row).split() == ["batch", "us", "-", "0.50", "ratio", "<=", "1.25", "not", "measured"]


def test_a_row_of_a_missing_contestant_says_so():
    """The yardstick's figure stands alone."""
    class Known:
        def times(self, key: str, what: str = "last"):
            return [[2.0, 4.0]] if key == "floor" else None

    row = beside(Known(), "x", "copyd", "floor", ratio_most=1.15)  # type: ignore[arg-type]
    assert (row.copyd, row.yardstick, row.ratio, row.reached) == (None, 3.0, None, None)
    assert row.note.startswith("not measured")


def test_the_plot_is_an_svg_with_a_curve_each():
    """Sorted, within its frame, named; one curve of one point and none at all are plots too."""
    text = skew_svg("a < b", {"one": [3_000, 1_000, 2_000], "two": [500_000], "none": []})
    root = ElementTree.fromstring(text)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 and "a &lt; b" in text and ">one<" in text and ">none<" not in text
    points = [tuple(map(float, point.split(","))) for point in lines[0].attrib["points"].split()]
    assert points == sorted(points) and [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert all(0 < x < 900 and 0 < y < 520 for x, y in points)
    ElementTree.fromstring(skew_svg("nothing", {}))


@needs_compiler
def test_compare_measures_checks_and_reports(built, tmp_path, capsys, monkeypatch):
    """A quick run: every row of the table, those of others too, all orders checked, the files that were asked for."""
    monkeypatch.setattr(compare, "ROWS", [*compare.ROWS, lambda bench: [Row(name="a row of another's", copyd=1.0)]])
    monkeypatch.setattr(compare, "build", lambda into: built)
    out, svg, hdr = tmp_path / "out.json", tmp_path / "skew.svg", tmp_path / "out.hdr"
    assert main(["compare", "--quick", "--followers", str(N), "--rounds", "1", "--journal", str(tmp_path), "--json", str(out),
                 "--plot", str(svg), "--hdr", str(hdr)]) == 0
    text = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["checked"] is True and report["problems"] == []
    rows = {row["name"]: row for row in report["rows"]}
    for name in (f"signed, {N} followers: last", f"signed, {N}: first", f"signed, {N}, journal process: last",
                 f"signed, {N}, journal strict: first"):
        assert rows[name]["copyd"] > 0 and rows[name]["yardstick"] > 0 and rows[name]["ratio"]["low"] > 0, name
        assert name in text
    assert rows["asyncio, a task per follower: last"]["yardstick"] > 0
    assert rows["replay of the journal"]["copyd"] > 0 and rows["columns of a follower with one leg"]["copyd"] > 100
    assert rows[f"batch, {N}, TCP: last"]["yardstick"] > 0
    assert rows["a row of another's"]["copyd"] == 1.0
    assert "not measured: needs a run without --quick" in text and "conditions:" in text and "excluded:" in text
    ElementTree.fromstring(svg.read_text())
    assert "Tag=planned-last" in hdr.read_text()
    assert not list(tmp_path.glob("copyd-bench-*")), "its directory is removed"


def test_compare_refuses_fewer_followers_than_connections():
    """Usage, in one sentence."""
    from copyd.errors import UsageError

    with pytest.raises(UsageError, match="at least 16 followers"):
        main(["compare", "--followers", "3"])
