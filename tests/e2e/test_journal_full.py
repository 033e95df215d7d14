"""A journal without room: nothing is sent that is not named in it."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.harness import Stage, wait_for


def test_a_full_map_stops_the_sending_with_74(stage: Callable[..., Stage]) -> None:
    """Semantics 33: the failed commit ends the process; the exchange shows no order the journal does not name."""
    s = stage(300)
    s.config["journal"].update(map_size_mib=16, free_disk_min_mib=1)
    s.write_config()
    s.start([s.plan(i) for i in range(300)], ready=False)

    def over() -> bool:
        if s.daemon.running:
            s.leader.buy("0.500")
            s.leader.sell("0.500")
        return not s.daemon.running

    wait_for(over, 40, lambda: str(s.status()))
    code, text = s.ends()
    assert code == 74, text
    assert "Traceback" not in text, text
    assert "full" in text.lower(), text[-600:]
    s.no_id_twice()
    s.all_named()


def test_openings_stop_while_there_is_room_for_the_closes(stage: Callable[..., Stage]) -> None:
    """Semantics 17, journal_low: openings are refused first; what is open is still closed, and readyz says why."""
    s = stage(100)
    s.config["journal"].update(map_size_mib=16, free_disk_min_mib=14)
    s.write_config()
    s.start([s.plan(i) for i in range(100)], ready=False)
    opened = False

    def low() -> bool:
        nonlocal opened
        if any("journal" in reason for reason in s.readyz()[1]):
            return True
        s.leader.buy("0.500")
        opened = True
        return False

    wait_for(low, 30, lambda: str(s.status()))
    assert opened or s.daemon.running
    s.quiet()
    before = s.lots()
    s.leader.buy("0.500")
    s.settled(1)
    assert s.lots() == before
    s.leader.flat()
    s.holds(0)
    s.stop()
    s.all_named()
