"""The benchmark's plan, and its runs: killed, failing, in processes and on a Ray cluster."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest
import torch
import tyro

from vlprompt.benchmark.changes import parse_changes
from vlprompt.benchmark.plan import Choice, make_plan
from vlprompt.benchmark.protocols import PROTOCOLS, Record, run_cell
from vlprompt.benchmark.store import Store
from vlprompt.benchmark.suites import SUITES
from vlprompt.cli.bench import bench
from vlprompt.cli.main import main
from vlprompt.engine.devices import pick_device
from vlprompt.errors import UserError
from vlprompt.methods import get_method


def choice(**changes) -> Choice:
    few = {"methods": ["zeroshot"], "datasets": ["shapes"], "protocols": ["few-shot"], "shots": [1]}
    return Choice(**{"suite": "toy", "seeds": [1], **few, **changes})


# The plan.


def test_plan_has_every_combination_once_and_one_seed_after_the_other():
    options = {"methods": ["coop", "zeroshot", "coop"], "datasets": ["shapes", "fonts"]}
    plan = make_plan(choice(**options, shots=[1, 4], seeds=[1, 2, 3]), [], workers=2)
    assert len(plan.cells) == len({cell.key for cell in plan.cells}) == 2 * 2 * 2 * 3
    assert [cell.seed for cell in plan.cells] == [1] * 8 + [2] * 8 + [3] * 8
    assert plan.missing == plan.cells
    guess = (
        0.15 * SUITES["toy"].seconds + 0.05 * SUITES["toy"].seconds
    )  # CoOp needs features, zero-shot nothing
    assert plan.seconds == pytest.approx(2 * 2 * 3 * guess / 2) and not plan.measured


def test_protocols_have_their_shots_data_sets_and_presets():
    plan = make_plan(choice(methods=["promptsrc"], protocols=list(PROTOCOLS), shots=[1, 16]), [], 1)
    found = [(c.protocol, c.dataset, c.shots, c.preset) for c in plan.cells]
    assert found == [
        ("few-shot", "shapes", 1, "few-shot"),
        ("few-shot", "shapes", 16, "few-shot"),
        ("base-to-new", "shapes", 16, ""),
        ("cross-dataset", "coloured-shapes", 16, "cross-dataset"),
        ("domain", "coloured-shapes", 16, "cross-dataset"),
    ]


def test_settings_are_what_differs_from_the_published():
    suite = SUITES["toy"].settings["coop"]
    (usual,) = make_plan(choice(methods=["coop"]), [], 1).cells
    published = get_method("coop").settings_for(1)
    assert usual.settings == {k: v for k, v in suite.items() if v != getattr(published, k)} != {}
    changed = choice(methods=["coop"], changes=[f"coop.epochs={published.epochs}", "coop.n_ctx=2"])
    (cell,) = make_plan(changed, [], 1).cells
    assert "epochs" not in cell.settings
    assert cell.settings["n_ctx"] == 2


def test_what_cannot_be_done_is_left_out_with_a_reason():
    plan = make_plan(choice(methods=["linear", "zeroshot"], protocols=["few-shot", "base-to-new"]), [], 1)
    assert [(c.method, c.protocol) for c in plan.cells] == [
        ("linear", "few-shot"),
        ("zeroshot", "few-shot"),
        ("zeroshot", "base-to-new"),
    ]
    assert len(plan.left_out) == 1
    assert "linear is left out of base-to-new: a linear probe knows only" in plan.left_out[0]
    plan = make_plan(choice(methods=["promptkd"]), [], 1)
    assert not plan.cells and "promptkd is left out of few-shot: " in plan.left_out[0]
    taught = choice(
        methods=["promptkd"], changes=["promptkd.teacher=tuned"], protocols=["base-to-new", "domain"]
    )
    assert len(make_plan(taught, [], 1).cells) == 2


def test_recorded_runs_are_done_and_give_the_estimate():
    first = make_plan(choice(seeds=[1, 2]), [], 1)
    records = [{"key": cell.key, "run": cell.run, "seconds": 7.0} for cell in first.cells]
    plan = make_plan(choice(seeds=[1, 2, 3, 4]), records, workers=2)
    assert [cell.seed for cell in plan.missing] == [3, 4]
    assert plan.seconds == 7.0 and plan.measured


def test_a_file_of_ones_own_is_run_again_when_it_changes(tmp_path):
    file = tmp_path / "mine.py"
    keys = set()
    for title in ("One", "Two"):
        text = "from vlprompt.methods.coop import CoOp\nclass Mine(CoOp):\n    name = 'mine'\n"
        file.write_text(text + f"    title = '{title}'\n")
        keys |= {cell.key for cell in make_plan(choice(methods=[str(file)]), [], 1).cells}
    assert len(keys) == 2


def test_where_and_by_what_a_run_is_computed_belongs_to_it():
    (cell,) = make_plan(choice(), [], 1).cells
    assert cell.device == pick_device("auto").type and cell.torch == torch.__version__.partition("+")[0]
    assert cell.precision == "no", "a small backbone is never computed in bfloat16"
    others = [{"device": "cuda:9"}, {"precision": "auto"}, {"torch": "1.0"}]
    changed = [dataclasses.replace(cell, **other) for other in others]
    assert len({one.key for one in (cell, *changed)}) == 4
    for one, says in zip(changed, ("device 'cuda:9'", "no bfloat16 here", "1.0 where the run"), strict=True):
        with pytest.raises(UserError, match=says):
            run_cell(one)
    assert f"--device {cell.device}" in cell.command


def test_the_command_of_a_run_makes_that_run(tmp_path, capsys):
    changes = ["coop.position=front", "coop.class_specific=True", "dpl+kgcoop.text_lengths=4,0,1,2"]
    changes += ["dpl+kgcoop.vision_lengths=0,0,0,1"]
    plan = make_plan(choice(methods=["coop", "dpl+kgcoop"], changes=changes), [], 1)
    for index, cell in enumerate(plan.cells):
        out = tmp_path / str(index)
        Store(out / "results.jsonl").append({"key": cell.key, "run": cell.run, "seconds": 1.0})
        words = shlex.split(cell.command)
        assert words[:2] == ["vlprompt", "bench"]
        tyro.cli(bench, args=[*words[2:], "--out", str(out), "--plan", "--json"])
        assert json.loads(capsys.readouterr().out) == {"runs": 1, "done": 1, "seconds": 0}


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("coop.epochs=20", {"epochs": 20}),
        ("coop.lr=1", {"lr": 1.0}),
        ("coop.class_specific=true", {"class_specific": True}),
        ("coop.ctx_init=a photo=of a.b", {"ctx_init": "a photo=of a.b"}),
        ("coop.position=front", {"position": "front"}),
    ],
)
def test_changes(change, value):
    parsed = parse_changes([change], ["coop"])["coop"]
    assert parsed == value
    assert [type(v) for v in parsed.values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changes": ["epochs=20"]}, "write METHOD.NAME=VALUE"),
        ({"changes": ["zeroshot.epochs"]}, "write METHOD.NAME=VALUE"),
        ({"changes": ["coop.epochs=20"]}, "'coop' is not among --methods zeroshot"),
        ({"changes": ["zeroshot.epoch=20"]}, "no setting 'epoch'.*there are .*epochs"),
        ({"changes": ["zeroshot.epochs=many"]}, "'many' is no int"),
        ({"changes": ["zeroshot.ensemble=maybe"]}, "'maybe' is no bool"),
        ({"methods": ["nothing"]}, "unknown method 'nothing'"),
        ({"methods": []}, "--methods is empty"),
        ({"datasets": ["cats"]}, "unknown data set 'cats' in suite 'toy': there are shapes"),
        ({"protocols": ["one-shot"]}, "unknown protocol 'one-shot'.*few-shot"),
        ({"shots": [0]}, "--shots 0"),
        ({"seeds": [1, -1]}, "seed -1"),
        ({"methods": ["coop"], "changes": ["coop.lr=-1"]}, "lr -1"),
        ({"suite": "benchmark", "datasets": ["dtd"]}, "give --root"),
        ({"methods": ["coop"], "changes": ["coop.n_ctx=90"]}, "'coop' with its --set: 90 context tokens"),
        (
            {"methods": ["coop"], "changes": ["coop.n_ctx=90"], "protocols": ["base-to-new"]},
            "the backbone has 77 positions",
        ),
    ],
)
def test_errors(changes, message):
    with pytest.raises(UserError, match=message) as error:
        make_plan(choice(**changes), [], 1)
    assert "\n" not in str(error.value)


# The runs.

SCENARIO = [
    *("--methods", "zeroshot,coop", "--datasets", "fonts", "--shots", "1", "--seeds", "1,2"),
    *("--set", "coop.n_ctx=73", "--workers", "2"),
]
"""Two runs that succeed and two that cannot: these class names are longer than the plan's."""


def wait_for(what, seconds: float = 300.0):
    """What a function gives as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise TimeoutError


def descendants(pid: int, word: str) -> list[psutil.Process]:
    """Processes below one, with a word in their command line."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended just now
            if word in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_first(word: str) -> None:
    """Kill, as soon as it is there, a process below this one with a word in its command line."""
    wait_for(lambda: descendants(os.getpid(), word))[0].kill()


@pytest.fixture(scope="module")
def alone() -> Record:
    """The record of one run in this process."""
    return run_cell(make_plan(choice(datasets=["fonts"]), [], 1).cells[0])


def test_killed_benchmark_goes_on_and_failing_runs_do_not_stop_it(tmp_path, capsys, alone):
    store = Store(tmp_path / "results.jsonl")
    arguments = ["bench", *SCENARIO, "--out", str(tmp_path)]
    first = subprocess.Popen([sys.executable, "-m", "vlprompt", *arguments], stderr=subprocess.DEVNULL)
    try:
        wait_for(store.read)
        workers = descendants(first.pid, "spawn_main")
    finally:
        first.kill()
        first.wait()
    assert len(workers) == 2
    wait_for(lambda: not any(worker.is_running() for worker in workers), 20)
    before = store.read()

    with ThreadPoolExecutor(1) as aside:
        killed = aside.submit(kill_first, "spawn_main")  # the run of this worker is started again
        with pytest.raises(SystemExit) as end:
            main(arguments)
        killed.result()
    assert end.value.code == 1
    records = store.read()
    assert records[: len(before)] == before
    assert sorted((r["run"]["method"], r["run"]["seed"]) for r in records) == [
        ("zeroshot", 1),
        ("zeroshot", 2),
    ]
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert len(failed) == 2
    assert all(
        "coop on fonts, few-shot, 1 shots, seed" in line and "73 context tokens" in line for line in failed
    )
    (same,) = [record for record in records if record["key"] == alone["key"]]
    assert same["metrics"] == alone["metrics"]


def test_ray_cluster_of_which_a_worker_is_killed(alone, monkeypatch):
    pytest.importorskip("ray")
    from vlprompt.benchmark.cluster import run_on_cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 comes to a halt where others work
    options = {"datasets": ["fonts"], "methods": ["zeroshot", "coop"], "changes": ["coop.n_ctx=73"]}
    cells = make_plan(choice(**options), [], 1).cells
    with ThreadPoolExecutor(1) as aside:
        killed = aside.submit(kill_first, "ray::attempt")  # the process that runs a cell right now
        outcomes = {outcome.cell.method: outcome for outcome in run_on_cluster(cells, "local", workers=2)}
        killed.result()
    assert outcomes["zeroshot"].record["metrics"] == alone["metrics"]
    assert outcomes["coop"].record is None
    assert "positions" in outcomes["coop"].problem
