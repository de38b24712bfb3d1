"""benchmarks/run.py names scripts that exist, and benchmarks/README.md has a place for every table."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load()


def test_scripts_exist_and_the_page_has_a_place_for_every_table():
    scripts = {one.script for one in run.BENCHMARKS}
    assert not [name for name in scripts if not (FOLDER / name).exists()]
    made = [name for one in run.BENCHMARKS for name in one.tables]
    places = run.markers((FOLDER / "README.md").read_text(encoding="utf-8"))
    assert len(set(made)) == len(made) and len(set(places)) == len(places)
    assert set(places) == set(made)
    assert len({one.name for one in run.BENCHMARKS}) == len(run.BENCHMARKS)
    assert sum(one.minutes for one in run.chosen("", everything=False)) <= 90


def test_a_result_is_written_between_its_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table: memory -->\n\nold\n\n<!-- end -->\nafter\n")
    record = {
        "tables": [{"name": "memory", "columns": ["work", "ours"], "rows": [["sums", "91"]]}],
        **{"shown": "python benchmarks/memory.py", "date": "2026-01-02", "machine": "CPU, 2 cores"},
        **{"busy_cores_before": 1.5, "versions": {"jax": "1.2"}},
    }
    (tmp_path / "memory.json").write_text(json.dumps(record))
    assert run.render(tmp_path, page) == 1
    told = "`python benchmarks/memory.py`, 2026-01-02, CPU, 2 cores, other work beside; jax 1.2."
    table = f"| work | ours |\n| --- | --- |\n| sums | 91 |\n\n{told}"
    assert page.read_text() == f"before\n<!-- table: memory -->\n\n{table}\n\n<!-- end -->\nafter\n"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="no place for the table 'memory'"):
        run.render(tmp_path, page)


def test_an_unknown_name_is_refused():
    with pytest.raises(SystemExit, match="no benchmark nothing; choose from dpo_step"):
        run.chosen("memory,nothing", everything=True)


def test_results_are_kept_resumed_and_failures_named(tmp_path, capsys):
    script, out = tmp_path / "one.py", tmp_path / "out"
    script.write_text(
        "import sys\nprint(sys.argv[1:])\nif 'bad' in sys.argv: sys.exit('no luck')\n"
        'print(\'{"tables": [{"name": "t", "columns": ["a"], "rows": [["1"]]}], "details": {}}\')\n'
    )
    out.mkdir()
    good = run.Benchmark("good", str(script), ("--model={stories}",), 2, ("t",))
    bad = run.Benchmark("bad", str(script), ("bad",), 1, ("t",))
    other = run.Benchmark("other", str(script), ("--model={smollm2}",), 1)
    given = argparse.Namespace(out=out, only="", peer=sys.executable)
    models = {"stories": "/somewhere/stories"}
    assert run.run_all([good, bad, other], models, given) == ["bad"]
    told = capsys.readouterr().out
    assert "[1 of 3] good: about 2 minutes, then 2 more" in told
    assert "[3 of 3] other: left out, needs --smollm2" in told
    record = json.loads((out / "good.json").read_text())
    assert record["tables"][0]["rows"] == [["1"]] and record["shown"].endswith("--model=stories")
    assert (out / "bad.log").read_text() == "no luck\n['bad', '--json']\n" and not (out / "bad.json").exists()
    assert run.run_all([good], models, given) == [] and "done before, kept" in capsys.readouterr().out
    assert run.run_all([good], {"stories": "/another"}, given) == []
    assert "done before" not in capsys.readouterr().out
