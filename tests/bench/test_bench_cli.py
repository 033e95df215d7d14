"""``copyd bench`` at a tiny size: it runs, checks what it measured, and writes what it promises."""

import json
from pathlib import Path

import pytest

from copyd.bench import main
from copyd.bench.conditions import percentiles

TINY = ["fanout", "--followers", "20", "--connections", "2", "--events", "4", "--warmup", "1", "--rate", "20"]


def test_list_names_every_bench_and_suite(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    for name in ("fanout", "compare", "sustained", "restart", "venues", "stages", "bench_fanout.py", "bench_encode.py"):
        assert name in out


def test_without_a_bench_it_says_how(capsys):
    """Usage is exit 2, on the screen and not as an exception."""
    assert main([]) == 2
    assert "fanout" in capsys.readouterr().out
    assert main(["fanout", "--followers", "0"]) == 2
    assert main(["--help"]) == 0


@pytest.mark.parametrize("durability", ["strict", "none"])
def test_fanout_is_checked_and_reported(tmp_path, capsys, durability):
    """Orders the peer received are those decided, sampled signatures are right, the JSON has every promised field."""
    out, hdr = tmp_path / "out.json", tmp_path / "out.hdr"
    assert main([*TINY, "--durability", durability, "--json", str(out), "--hdr", str(hdr), "--journal", str(tmp_path)]) == 0
    report = json.loads(out.read_text())
    assert report["checked"] is True and report["problems"] == []
    assert (report["followers"], report["connections"], report["signed"], report["durability"]) == (20, 2, True, durability)
    assert (report["events"], report["orders"]) == (4, 80)
    assert report["signatures_checked"] > 0
    assert set(report["first_us"]) == {"p50", "p99", "max"}
    assert set(report["last_us"]) == {"p50", "p99", "p999", "max"}
    assert report["last_us"]["max"] >= report["first_us"]["max"] > 0
    assert set(report["stages_us"]) >= {"decode", "step", "append", "durable", "render", "send"}
    assert set(report["conditions"]) >= {
        "cpu", "kernel", "python", "uvloop", "cython", "copyd", "commit", "cores", "load_average", "date", "rate", "excluded"}
    assert "Tag=last" in hdr.read_text()
    text = capsys.readouterr().out
    assert "received -> last order" in text and "excluded" in text
    assert not list(tmp_path.glob("copyd-bench-*")), "its journal is removed"


@pytest.mark.parametrize("instruments", [1, 3])
def test_sustained_books_every_reply_and_event(tmp_path, capsys, instruments):
    """Orders sent, received, answered and executed are the same number; positions and wallets are those of the venue's books."""
    out = tmp_path / "out.json"
    assert main([
        "sustained", "--followers", "30", "--connections", "2", "--streams", "2", "--instruments", str(instruments), "--events",
        "8", "--warmup", "2", "--json", str(out), "--journal", str(tmp_path)]) == 0
    report = json.loads(out.read_text())
    assert report["checked"] is True and report["problems"] == [] and report["orders"] == 240
    assert report["orders_per_loop_s"] > 0 and report["late_us"]["max"] > 0 and report["records"] > 8
    assert "loop late by" in capsys.readouterr().out
    assert not list(tmp_path.glob("copyd-bench-*")), "its journal is removed"


def test_sustained_says_what_does_not_agree(tmp_path, monkeypatch):
    """A trade that is heard and not booked, and a wallet that is: the books differ, and the run says so."""
    from copyd.bench import sustained

    checked = sustained._check

    def spoil(path, answer):
        answer["held"][0][2] += 1
        answer["wallets"][0][1] -= 1
        return checked(path, answer)

    monkeypatch.setattr(sustained, "_check", spoil)
    report = sustained.run(sustained.Settings(
        followers=5, connections=1, streams=1, instruments=1, events=3, warmup=0, durability="none", journal=tmp_path))
    assert report["problems"] == [
        "positions are not those of the venue's books", "wallets are not those of the venue's books"]


def test_same_seed_same_orders(tmp_path):
    """Whatever the durability and the number of connections; another seed gives others."""
    hashes = []
    for at, more in enumerate((["--seed", "3"], ["--seed", "3", "--durability", "none", "--connections", "1"], ["--seed", "4"])):
        out = tmp_path / f"{at}.json"
        assert main([*TINY, *more, "--json", str(out), "--journal", str(tmp_path)]) == 0
        report = json.loads(out.read_text())
        if report["overlapped"]:
            pytest.skip("this machine was too busy to answer between two events")
        hashes.append(report["result_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_restart_rebuilds_what_was_left(tmp_path):
    out = tmp_path / "out.json"
    assert main(["restart", "--followers", "30", "--records", "3", "--json", str(out), "--journal", str(tmp_path)]) == 0
    report = json.loads(out.read_text())
    assert report["checked"] is True
    assert report["checkpoint_bytes"] > 30 * 100
    assert list(report["rss_bytes"]) == ["program", "keys", "plans", "one_event"]


def test_stages_run_the_suites(tmp_path):
    """Sizes reach the suites, their results the file."""
    out = tmp_path / "out.json"
    assert main(["stages", "--followers", "25", "--only", "bench_reports", "--json", str(out)]) == 0
    names = {bench["name"] for bench in json.loads(Path(out).read_text())["benchmarks"]}
    assert names == {"test_apply_replies", "test_step_replies"}


def test_percentiles_are_nearest_rank():
    """Of 1..100 us; the maximum is exact."""
    values = [us * 1000 for us in range(1, 101)]
    assert percentiles(values, (50, 99, 99.9)) == {"p50": 50.0, "p99": 99.0, "p999": 100.0, "max": 100.0}
    assert percentiles([]) == {"p50": 0.0, "p99": 0.0, "max": 0.0}


@pytest.mark.parametrize("durability", ["strict", "none"])
def test_batch_is_checked_and_reported(tmp_path, capsys, durability):
    """Every order is executed and booked, positions are the exchange's, and the figures have their conditions."""
    out = tmp_path / "out.json"
    words = ["batch", "--followers", "40", "--events", "4", "--warmup", "1", "--rest-ms", "1", "--durability", durability]
    assert main([*words, "--json", str(out), "--journal", str(tmp_path), "--unix"]) == 0
    (report,) = json.loads(out.read_text())["runs"]
    assert report["checked"] is True and report["problems"] == [] and report["transport"] == "unix"
    assert report["orders"] >= 160 and report["report_rows"] >= report["orders"]
    assert report["last_us"]["max"] >= report["first_us"]["max"] > 0
    text = capsys.readouterr().out
    assert "orders/s" in text and "checked" in text
    assert not list(tmp_path.glob("copyd-bench-*")), "its journal is removed"


def test_venues_are_checked_and_reported(tmp_path, capsys):
    """Orders on two venues are the exchanges', rendered texts the twins', and every figure of the table is in the JSON."""
    out = tmp_path / "out.json"
    words = ["venues", "--venue", "binance_usdm", "--venue", "bybit", "--accounts", "6", "--rounds", "3", "--encoded", "60"]
    assert main([*words, "--turns", "3", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["checked"] is True and report["problems"] == []
    first, second = report["venues"].values()
    assert (first["orders"], second["orders"]) == (18, 18)
    assert (first["connections_per_account"], second["connections_per_account"]) == (0, 2)
    assert first["encode"]["ratio"] == 1 and second["encode"]["ns_per_order"] > 0
    for one in (first, second):
        assert one["us_per_order"] > 0 and one["connects_per_min"] > one["connects_per_min_within_limit"] > 0
        assert one["rss_after_bytes"] > 0 and one["rss_before_bytes"] > 0
    assert "us of the loop thread per order" in capsys.readouterr().out


def test_venues_says_what_is_not_the_twins(monkeypatch):
    """An order whose text differs from the twin's, and one that is missing, are told by the venue's name."""
    from copyd.bench import venues
    from copyd.bench.venues import Subject, compared, orders

    columns, slots, rows = orders(3)
    item = None
    rendered = [(0, b"text", rows[at].cid, slots[at : at + 1].tobytes()) for at in range(3)]
    monkeypatch.setattr(venues, "CHECKED", 3)

    def one(texts, twin):
        return Subject(lambda columns, slots, now: texts, lambda key, order, now: twin, lambda buffer: [buffer], item)

    assert compared("okx", one(rendered, b"text"), columns, slots, rows) == []
    assert compared("okx", one(rendered, b"other"), columns, slots, rows) == ["okx: 3 orders are not the twin's"]
    assert compared("okx", one(rendered[1:], b"text"), columns, slots, rows) == ["okx: not every order once"]


def test_venues_wants_a_venue_it_has():
    """By name, with those there are."""
    from copyd.bench.venues import Settings, run
    from copyd.errors import UsageError

    with pytest.raises(UsageError, match=r"no such venue: ftx \(binance_usdm"):
        run(Settings(venues=("ftx",)))
