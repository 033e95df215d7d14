"""What the machine's settings cost is said with the line that sets them; what cannot be read is not guessed."""

from pathlib import Path

from copyd.host import host_notes

GOOD = {
    "proc/sys/net/ipv4/tcp_slow_start_after_idle": "0\n",
    "proc/sys/net/ipv4/tcp_congestion_control": "cubic\n",
    "proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t4194304\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
}


def machine(root: Path, **changed: str) -> Path:
    """A tree of settings; keys of ``changed`` are the last part of a path."""
    for name, text in GOOD.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.name, text))
    return root


def test_a_machine_that_is_set_well_gets_no_note(tmp_path: Path) -> None:
    """Nothing to say is said by nothing."""
    assert host_notes(625, 1, machine(tmp_path)) == []


def test_settings_that_cannot_be_read_are_not_mentioned(tmp_path: Path) -> None:
    """A container without ``/proc/sys``: no note, no error."""
    assert host_notes(625, 1, tmp_path) == []


def test_every_costly_setting_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Slow start after silence, a send buffer below a connection's share, no large pages, a slow clock, threads without cores."""
    root = machine(
        tmp_path, tcp_slow_start_after_idle="1", tcp_wmem="4096 16384 65536", enabled="always madvise [never]",
        scaling_governor="powersave")
    notes = host_notes(625, 10_000, root)
    for part in (
        "tcp_slow_start_after_idle=0", "tcp_wmem='4096 16384 4194304'", "transparent_hugepage", "powersave", "hot_threads",
    ):
        assert sum(part in note for note in notes) == 1, part
    assert len(notes) == 5


def test_bbr_needs_no_setting_for_silence(tmp_path: Path) -> None:
    """It does not begin anew after silence."""
    root = machine(tmp_path, tcp_slow_start_after_idle="1", tcp_congestion_control="bbr")
    assert host_notes(625, 1, root) == []
