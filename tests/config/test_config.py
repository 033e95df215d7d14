"""The configuration shipped, its schema, its hash and what a reload may change."""

from pathlib import Path

import msgspec
import pytest
import yaml
from msgspec import inspect as mi

from copyd.config import (
    RESTART_ONLY,
    Config,
    config_hash,
    config_version,
    json_schema_text,
    restart_needed,
)
from copyd.configfile import config_text, effective_rows, example
from copyd.decimals import factor_ppm, factor_text, money_e8, money_text
from copyd.yamlcheck import load, load_config

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "config" / "copyd.yaml"


def test_the_shipped_file_is_the_one_the_structs_write():
    """Comments, defaults and values of config/copyd.yaml come from config.py; `copyd config init` rewrites it."""
    assert SHIPPED.read_text() == config_text(example())


def test_the_shipped_schema_is_the_one_the_structs_give():
    """`copyd config schema > config/schema.json` rewrites it."""
    assert (ROOT / "config" / "schema.json").read_text() == json_schema_text()


def test_the_shipped_file_loads_to_the_example_and_names_its_schema():
    assert load_config(SHIPPED) == example()
    assert SHIPPED.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_a_file_without_comments_loads_back_to_the_same_values(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(config_text(example(), comments=False))
    assert load_config(path) == example()


def _keys(kind, seen):
    for field in kind.fields:
        inner, words = field.type, ""
        while isinstance(inner, mi.Metadata):
            words = words or (inner.extra_json_schema or {}).get("description", "")
            inner = inner.type
        yield kind.cls.__name__, field, inner, words
        entry = inner.item_type if isinstance(inner, mi.VarTupleType) else inner
        if isinstance(entry, mi.StructType) and entry.cls not in seen:
            seen.add(entry.cls)
            yield from _keys(entry, seen)


def test_every_key_is_described_and_carries_its_unit_and_default():
    """No key without a comment; a number with a unit in its name names the unit; the file shows every default."""
    text = " ".join(line.strip().removeprefix("# ") for line in SHIPPED.read_text().splitlines())
    count = 0
    units = {"_ms": "ms", "_s": " s", "_mib": "MiB", "_bps": "bps"}
    for section, field, inner, words in _keys(mi.type_info(Config), set()):
        count += 1
        assert len(words) > 10, f"{section}.{field.name} has no description"
        assert words.split()[0] in text
        for suffix, unit in units.items():
            if field.name.endswith(suffix):
                assert unit in words, f"{section}.{field.name} does not name its unit"
        if isinstance(inner, mi.IntType):
            assert inner.ge is not None and inner.le is not None, f"{section}.{field.name} has no bounds"
    assert count > 80


def test_the_hash_follows_the_values_not_the_spelling(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("# another spelling\n" + config_text(example(), comments=False))
    assert config_hash(load_config(path)) == config_hash(example())
    other = msgspec.structs.replace(example(), mode="live")
    assert config_hash(other) != config_hash(example())
    assert 0 <= config_version(other) < 1 << 63


def test_a_reload_is_refused_by_the_name_of_the_section_only_a_restart_can_change():
    old = example()
    tuned = msgspec.structs.replace(old, copy=msgspec.structs.replace(old.copy, max_event_age_ms=1_500))
    moved = msgspec.structs.replace(tuned, journal=msgspec.structs.replace(old.journal, path="elsewhere"))
    assert restart_needed(old, tuned) == []
    assert restart_needed(old, moved) == ["journal"]
    assert set(RESTART_ONLY) <= set(Config.__struct_fields__)


def test_origins_tell_where_each_value_was_written():
    loaded = load(SHIPPED)
    origin = loaded.origins["venues[0].recv_window_ms"]
    assert "recv_window_ms: 2000" in SHIPPED.read_text().splitlines()[origin.line - 1]
    assert ("venues[0].recv_window_ms", "2000") in effective_rows(loaded.config)


def test_the_schema_accepts_the_keys_of_the_file_and_nothing_else():
    schema = msgspec.json.decode(json_schema_text())
    top = schema["$defs"]["Config"]
    assert set(yaml.safe_load(SHIPPED.read_text())) <= set(top["properties"])
    assert all(d.get("additionalProperties") is False for d in schema["$defs"].values())


@pytest.mark.parametrize(
    ("text", "e8"), [("0", 0), ("1000.50", 100_050_000_000), ("0.00000001", 1), ("9999999999.99999999", 10**18 - 1)]
)
def test_money_is_exact_both_ways(text, e8):
    assert money_e8(text) == e8
    assert money_e8(money_text(e8)) == e8


@pytest.mark.parametrize("text", ["", "1.", ".5", "-1", "+1", "1e3", "1,5", "0.000000001", "12345678901", "١", "1 ", "nan"])
def test_money_that_is_not_a_plain_decimal_is_refused(text):
    with pytest.raises(ValueError, match="not a plain decimal"):
        money_e8(text)


def test_factors_are_exact_both_ways():
    assert factor_ppm("1.5") == 1_500_000
    assert factor_text(1_500_000) == "1.5"
    assert factor_text(-250_000) == "-0.25"
