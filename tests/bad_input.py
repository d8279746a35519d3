"""The table of bad input: a command or a Python expression, and the words of the one line that it gives.

Each row runs in the folder that ``test_bad_input.py`` makes: photos/ (3 classes of 7), kept/ (a CoOp
classifier), linear/, clip/ (another backbone), given/ (a copy of kept/, for a row to damage). ``files``
are written before: a mapping changes a JSON file, bytes and text replace any other. Commands end with exit
code 2, expressions with a UserError.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import ones


class Row(NamedTuple):
    """Bad input, what is said about it, and the files that it needs."""

    call: str
    says: str
    files: Mapping[str, Any] = {}


def damaged(says: str, **change: Any) -> Row:
    """A classifier whose config.json says something else."""
    return Row("words given", says, {"given/config.json": change})


def of_setting(says: str, **change: Any) -> Row:
    """A classifier with another setting."""
    return Row("words given", says, {"given/config.json": {"settings": change}})


def raw(file: str, content: str | bytes, says: str = "is damaged") -> Row:
    """A classifier with a file of other content."""
    return Row("words given", says, {f"given/{file}": content})


def claims(shape: list[int], end: int) -> bytes:
    """A safetensors file whose header speaks of more than there is."""
    header = json.dumps({"ctx": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header


def recorded(says: str, call: str = "report results.jsonl --out new.html", **change: Any) -> Row:
    """A results file of one record that says something else; None is a key that is missing."""
    run = RUN | {k[4:]: v for k, v in change.items() if k.startswith("run_")}
    record = RECORD | {"run": run} | {k: v for k, v in change.items() if not k.startswith("run_")}
    record["run"] = {k: v for k, v in run.items() if v != MISSING} if isinstance(record["run"], dict) else 1
    line = json.dumps({k: v for k, v in record.items() if v != MISSING})
    return Row(call, says, {"results.jsonl": line + "\n"})


def config(text: str | bytes, says: str) -> Row:
    """``fit`` with a YAML file."""
    return Row("fit photos --out new --config f.yaml", says, {"f.yaml": text})


OWN_WITHOUT = """
from vlprompt.methods.base import Method
class Mine(Method):
    name = "mine"
"""
OWN_RAISING = """
from vlprompt.methods.coop import CoOp
class Mine(CoOp):
    name = "mine"
    def build(self):
        raise RuntimeError("no")
"""
MISSING = "is missing"
RUN = {
    "suite": "toy", "protocol": "few-shot", "model": "toy", "revision": None, "dataset": "d",
    "method": "coop", "settings": {}, "preset": "", "augment": "none", "shots": 1, "seed": 1,
}  # fmt: skip
MEASURED = {"accuracy": 1.0, "macro_f1": 1.0, "ece": 1.0, "n": 1}
RECORD = {
    "key": "a", "metrics": {"test": MEASURED}, "lengths": None, "seconds": 1, "parameters": 1,
    "command": "c", "version": "0", "finished": "f", "run": RUN,
}  # fmt: skip
OPTIONS = {
    "seed": 1, "device": "auto", "precision": "no", "clip_grad": None, "augment": "auto", "views": 0,
}  # fmt: skip
PAIRS = zip("abcdefgh", "bcdefghi", strict=True)
BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in PAIRS)
FIT = "fit photos --out new --shots 2 --epochs 1 "
SEARCH = "search photos --out new.json --shots 2 --epochs 1 "
BENCH = "bench --out new --methods coop --seeds 1 --shots 1 "
DISTILL = "distill photos --out new --epochs 1 "
COMPARE = "compare photos --out new --methods zeroshot --seeds 1 "
CSV = "fit list.csv --out new --shots 1 --epochs 1"
X, MANY = "fit(X, y)", "9" * 40

TABLE = [
    # The command itself.
    Row("fti photos", "unknown command 'fti': there are fit, "),
    Row("'' photos", "unknown command ''"),
    Row("fit.py photos", "unknown command 'fit.py'"),
    # fit: what to train on.
    Row("fit /no/such/data --out new", "/no/such/data"),
    Row("fit toy:no-task --out new", "no-task"),
    Row("fit toy:digits@no-shift --out new", "no-shift"),
    Row("fit toy: --out new", "toy:"),
    Row("fit nothing --out new", "data 'nothing' is no folder"),
    Row("fit '' --out new", "data '' is no folder"),
    Row("fit hub: --out new", "'hub:' names no data set"),
    Row("fit hub:owner/name --out new", "data set 'hub:owner/name' cannot be loaded"),
    Row("fit hub:../photos --out new", "data set 'hub:../photos' cannot be loaded"),
    Row("fit caltech101 --out new", "--root"),
    Row("fit caltech101 --root /no/root --out new", "/no/root"),
    Row("fit caltech101 --root photos --out new", "is not under 'photos'"),
    Row("fit text.png --out new", "data 'text.png' is no folder"),
    Row("fit nowhere.csv --out new", "'nowhere.csv' does not exist"),
    Row("fit folder.csv --out new", "no regular file"),
    Row("fit pipe.csv --out new", "no regular file"),
    Row("fit photos/green --out new", "holds no class folders"),
    Row("fit one --out new", "holds one class only"),
    Row("fit hollow --out new", "has no usable image (there are none)"),
    Row(CSV, "has the columns none", {"list.csv": ""}),
    Row(CSV, "names 0 class", {"list.csv": "path,label\n"}),
    Row(CSV, "has the columns file, class", {"list.csv": "file,class\na.png,a\n"}),
    Row(CSV, "line 2: path or label is empty", {"list.csv": "path,label\nphotos/green/0.png,\n"}),
    Row(CSV, "line 2: path or label is empty", {"list.csv": "path,label\n,green\n"}),
    Row(CSV, "line 2: path or label is empty", {"list.csv": "path,label\nphotos/green/0.png\n"}),
    Row(CSV, "names 1 class", {"list.csv": "path,label\nphotos/green/0.png,a\nphotos/green/1.png,a\n"}),
    Row(CSV, "split 'trian' is none of", {"list.csv": "path,label,split\nphotos/green/0.png,a,trian\n"}),
    Row(CSV, "has no readable training image", {"list.csv": "path,label\nno.png,a\nphotos/green/1.png,b\n"}),
    Row(
        CSV,
        "has no readable training image",
        {"list.csv": "path,label,split\nphotos/green/0.png,a,train\nphotos/green/1.png,b,test\n"},
    ),
    Row(CSV, "cannot be read as CSV", {"list.csv": b"path,label\n\xff\xfe,a\n"}),
    Row(CSV, "has no readable training image", {"list.csv": b"path,label\n\0,a\n\0,b\n"}),
    Row(CSV, "cannot be read as CSV", {"list.csv": 'path,label\n"' + "x" * 200_000 + '",a\n'}),
    Row(
        CSV,
        "has no readable training image",
        {"list.csv": "path,label\n" + "x" * 5000 + ",a\nphotos/green/1.png,b\n"},
    ),
    Row(CSV, "has no readable training image", {"list.csv": "path,label\ntext.png,a\nempty.png,b\n"}),
    Row(
        CSV, "has no readable training image", {"list.csv": "path,label\npipe.jpg,a\nphotos/green/1.png,b\n"}
    ),
    # fit: how.
    Row("fit photos --out new --shots 0", "shots 0"),
    Row("fit photos --out new --shots -3", "shots -3"),
    Row("fit photos --out new --shots 99", "has 7 training images, 99 shots"),
    Row("fit photos --out new --shots None", "give --shots"),
    Row("fit photos --out new --shots two", "--shots"),
    Row("fit photos --out new --shots 2.5", "--shots"),
    Row(f"fit photos --out new --shots {MANY}", "has 7 training images"),
    Row(FIT + "--seed -1", "seed -1"),
    Row(FIT + f"--seed {10**30}", f"seed {10**30}"),
    Row(FIT + "--seed one", "--seed"),
    Row(FIT + "--epochs -1", "epochs -1"),
    Row(FIT + "--epochs many", "--epochs"),
    Row(FIT + f"--epochs {MANY}", "epochs 999"),
    Row(FIT + "--epochs 1e3", "--epochs"),
    Row(FIT + "--batch-size 0", "batch_size 0"),
    Row(FIT + f"--batch-size {MANY}", "batch_size 999"),
    Row(FIT + "--lr nan", "lr nan"),
    Row(FIT + "--lr -0.1", "lr -0.1"),
    Row(FIT + "--lr inf", "lr inf"),
    Row(FIT + "--lr 1e300", "lr 1e+300"),
    Row(FIT + "--lr fast", "--lr"),
    Row(FIT + "--lr", "--lr"),
    Row(FIT + "--momentum 1", "momentum 1"),
    Row(FIT + "--momentum 1 --optimizer adamw", "momentum 1"),
    Row(FIT + "--weight-decay -1", "weight_decay -1"),
    Row(FIT + "--weight-decay nan", "weight_decay nan"),
    Row(FIT + "--optimizer nope", "--optimizer"),
    Row(FIT + "--n-ctx -1", "n_ctx -1"),
    Row(FIT + "--n-ctx 90", "77"),
    Row(FIT + "--n-ctx 100000", "n_ctx 100000"),
    Row(FIT + "--n-ctx 1.5", "--n-ctx"),
    Row(FIT + "--clip-grad 0", "clip_grad 0"),
    Row(FIT + "--clip-grad nan", "clip_grad nan"),
    Row(FIT + "--views -1", "views -1"),
    Row(FIT + "--views 100000", "views 100000"),
    Row(FIT + "--augment weird", "--augment"),
    Row(FIT + "--precision half", "--precision"),
    Row(FIT + "--precision fp16 --device cpu", "precision fp16"),
    Row(FIT + "--device tpu9", "device 'tpu9' is not there"),
    Row(FIT + "--device ''", "device ''"),
    Row(FIT + "--device cuda:99", "device 'cuda:99'"),
    Row(FIT + "--preset x", "no preset 'x': there is none"),
    Row(FIT + "--preset x --method vpt", "there is shallow, deep"),
    Row(FIT + "--templates 'a photo'", "template 'a photo'"),
    Row(FIT + "--templates ''", "template ''"),
    Row(FIT + "--templates '{} {}' 'none'", "template 'none'"),
    Row("fit photos --out new --shots 2 --method zeroshot --templates '{} " + "word " * 200 + "'", "77"),
    Row(FIT + "--ctx-init '" + "word " * 200 + "'", "the backbone reads 77"),
    Row(FIT + "--ctx-init 'a photo' --n-ctx 4 --method cocoop", "lower n_ctx"),
    Row(FIT + "--method copo", "unknown method 'copo': there are "),
    Row(FIT + "--method ''", "unknown method ''"),
    Row(FIT + "--method +", "unknown method ''"),
    Row(FIT + "--method coop+", "unknown method ''"),
    Row(FIT + "--method " + "x" * 10_000, "unknown method 'xxx"),
    Row("fit photos --out new --shots 2 --method linear+kgcoop", "learns no prompts"),
    Row("fit photos --out new --shots 2 --method tip+promptsrc", "learns no prompts"),
    Row("fit photos --out new --shots 2 --method dpl+kgcoop+kgcoop", "added twice"),
    Row("fit photos --out new --shots 2 --method coop+vpt", "adds nothing"),
    Row(FIT + "--method nowhere.py", "does not exist"),
    Row(FIT + "--method folder.py", "folder.py"),
    Row(FIT + "--method own.py", "own.py' cannot be imported", {"own.py": "def broken(:"}),
    Row(FIT + "--method own.py", "own.py' cannot be imported", {"own.py": "import no_such_package"}),
    Row(FIT + "--method own.py", "own.py' cannot be imported", {"own.py": "1 / 0"}),
    Row(FIT + "--method own.py", "holds no subclass", {"own.py": "x = 1"}),
    Row(FIT + "--method own.py", "own.py' cannot be imported", {"own.py": b"\xff\xfe"}),
    Row(FIT + "--method own.py", "own.py", {"own.py": "raise SystemExit(7)"}),
    Row(FIT + "--method own.py", "own.py", {"own.py": OWN_WITHOUT}),
    Row(FIT + "--method own.py", "no", {"own.py": OWN_RAISING}),
    Row("fit photos --out new --shots ²", "--shots"),
    Row(FIT + "--device hpu", "device 'hpu'"),
    Row(FIT + "--track wandb", "wandb"),
    Row(FIT + "--method ivlp --depth 0", "depth 0"),
    Row(FIT + "--method dpl --text-max -1", "text_max -1"),
    Row(FIT + "--method dpl --text-max 1000000", "text_max 1000000"),
    Row("fit photos --out new --shots 2 --method linear --c 0", "c 0"),
    Row(FIT + "--lengths /no/file --method dpl", "lengths file '/no/file'"),
    Row(FIT + "--lengths photos --method dpl", "lengths file 'photos'"),
    Row(FIT + "--lengths l.json", "method 'coop' takes no lengths", {"l.json": '{"text":[1],"vision":[1]}'}),
    Row(FIT + "--lengths l.json --method dpl", "1 text lengths", {"l.json": '{"text":[1],"vision":[1]}'}),
    Row(FIT + "--model /no/model", "model '/no/model' is neither a folder"),
    Row(FIT + "--model owner/clip", "give a local folder, or use the built-in 'toy'"),
    Row(FIT + "--model ''", "model folder '' has no config.json"),
    Row(FIT + "--model photos", "photos"),
    Row(FIT + "--model text.png", "text.png"),
    Row(FIT + "--model a/b/c/d", "a/b/c/d"),
    Row(FIT + "--model owner/clip@main@x", "model 'owner/clip@main@x'"),
    Row("fit " + "x" * 5000 + " --out new", "is no folder, no CSV file"),
    Row(FIT + "--track nothing", "nothing"),
    Row(FIT + "--no-such-flag 1", "--no-such-flag"),
    Row(FIT + "--search-epochs 3", "--search-epochs"),
    Row(FIT + "extra words", "extra"),
    # fit: where to.
    Row("fit photos", "--out"),
    Row("fit --out new", "DATA"),
    Row("fit photos --out", "--out"),
    Row("fit photos --shots 2 --out ''", "was not made by vlprompt"),
    Row("fit photos --shots 2 --out /", "is no folder of its own"),
    Row("fit photos --shots 2 --out photos", "was not made by vlprompt"),
    Row("fit photos --shots 2 --out text.png", "was not made by vlprompt"),
    Row("fit photos --shots 2 --out text.png/below", "give a folder you may write to"),
    Row("fit photos --shots 2 --out dangling", "is a link"),
    Row("fit photos --shots 2 --out /proc/x", "cannot be written"),
    Row("fit photos --shots 2 --out " + "x" * 300, "too long"),
    Row("fit photos --shots 2 --out new --force maybe", "Unrecognized options: maybe"),
    # Configurations.
    Row("fit --config", "--config needs one file"),
    Row("fit --config a --config b", "--config needs one file"),
    Row("fit --config nowhere.yaml", "config 'nowhere.yaml' cannot be read"),
    Row("fit --config photos", "config 'photos' cannot be read"),
    Row("fit --config pipe.jpg", "config 'pipe.jpg' cannot be read"),
    config("[" * 3000, "cannot be read"),
    config(BOMB, "aliases are not taken"),
    config("a: &a [*a]", "aliases are not taken"),
    config("a: [1", "cannot be read"),
    config(b"\xff\xfe\xff", "cannot be read"),
    config("x: " + "y" * 1_100_000, "larger than 1 MB"),
    config("- epochs", "is no mapping"),
    config("", "is no mapping"),
    config("!!python/object/apply:os.system ['touch ran']", "cannot be read"),
    config("epochs: many", "--epochs"),
    config("epochs: {a: 1}", "--epochs"),
    config("epochs: [1, 2]", "2"),
    config("epochs:", "--epochs"),
    config("speed: 3", "--speed"),
    config("1: 2", "--1"),
    config("method: own.py", "is executed only where the command names it"),
    config("method: dpl+own.py", "is executed only where the command names it"),
    config("config: f.yaml", "--config"),
    config("lr: .nan", "lr nan"),
    config("shots: 2\nseed: 0x" + "f" * 99, "seed"),
    # search.
    Row("search", "DATA"),
    Row("search photos --out new.html", "name that ends in .json"),
    Row("search photos --out text.png --shots 2", "was not made by vlprompt"),
    Row("search photos --out photos --shots 2", "is no file"),
    Row("search photos --out text.png/x.json --shots 2", "cannot be written"),
    Row("search photos --out '' --shots 2", "name that ends in .json"),
    Row(SEARCH + "--seeds", "there are no seeds"),
    Row(SEARCH + "--seeds 1 1 x", "--seeds"),
    Row(SEARCH + "--seeds -1", "seed -1"),
    Row(SEARCH + "--control -1", "control -1"),
    Row(SEARCH + "--preset x", "no preset 'x'"),
    Row(SEARCH + "--text-max -1", "text_max -1"),
    Row(SEARCH + "--text-max 1000000", "text_max 1000000"),
    Row(SEARCH + "--budget 2.5", "budget 2.5"),
    Row(SEARCH + "--budget nan", "budget nan"),
    Row(SEARCH + "--search nothing", "--search"),
    Row(SEARCH + "--device tpu9", "tpu9"),
    Row(SEARCH + "--model /no/model", "/no/model"),
    Row(SEARCH + "--method coop", "--method"),
    Row("search photos --out new.json --shots 0", "shots 0"),
    Row("search toy:no-task --out new.json", "no-task"),
    # distill.
    Row("distill", "Missing from vlprompt distill"),
    Row("distill photos --out new", "teacher"),
    Row(DISTILL + "--teacher nowhere", "classifier 'nowhere' does not exist"),
    Row(DISTILL + "--teacher photos", "has no config.json"),
    Row(DISTILL + "--teacher kept --epochs -1", "epochs -1"),
    Row(DISTILL + "--teacher kept --seed -1", "seed -1"),
    Row(DISTILL + "--teacher kept --device tpu9", "tpu9"),
    Row(DISTILL + "--teacher kept --model /no/model", "/no/model"),
    Row(DISTILL + "--teacher kept --preset x", "no preset 'x'"),
    Row(DISTILL.replace("photos", "nowhere.jpg") + "--teacher kept", "'nowhere.jpg' is no image"),
    Row(DISTILL.replace("photos", "hollow") + "--teacher kept", "'hollow' is no image"),
    Row(DISTILL.replace("new", "photos") + "--teacher kept", "was not made by vlprompt"),
    # predict.
    Row("predict", "Missing from vlprompt predict: PATH"),
    Row("predict kept", "no images"),
    Row("predict nowhere photos", "nowhere' does not exist"),
    Row("predict photos photos", "has no config.json"),
    Row("predict text.png photos", "text.png' does not exist"),
    Row("predict kept nowhere.jpg", "nowhere.jpg' is no image"),
    Row("predict kept '*.webp'", "'*.webp' is no image"),
    Row("predict kept ''", "'' is no image"),
    Row("predict kept text.png", "text.png' cannot be read"),
    Row("predict kept empty.png", "empty.png' cannot be read (the file is empty)"),
    Row("predict kept long.png", "100 times as long as wide"),
    Row("predict kept wide.png", "megapixels"),
    Row("predict kept script.jpg", "it is no image of JPEG"),
    Row("predict kept pipe.jpg", "no regular file"),
    Row("predict kept hollow", "is no image"),
    Row("predict kept dangling", "is no image"),
    Row("predict kept " + "x" * 5000, "is no image, no folder"),
    Row("predict kept photos --format xml", "--format"),
    Row("predict kept photos --top all", "--top"),
    Row("predict kept photos --classes '" + "zq " * 60 + "'", "77"),
    Row("predict kept photos --classes ''", "--classes has a name without letters"),
    Row("predict linear photos --classes apple pear", "linear probe knows only"),
    Row("predict kept photos --device tpu9", "tpu9"),
    Row("predict kept photos --model clip", "give the same backbone"),
    Row("predict kept photos --model /no/model", "/no/model"),
    Row("predict kept photos --method nowhere.py", "nowhere.py"),
    Row("predict kept photos --method copo", "copo"),
    # evaluate.
    Row("evaluate", "Missing from vlprompt evaluate: PATH"),
    Row("evaluate kept", "Missing from vlprompt evaluate: STR"),
    Row("evaluate kept nothing", "data 'nothing'"),
    Row("evaluate kept toy:no-task", "no-task"),
    Row("evaluate photos photos", "has no config.json"),
    Row("evaluate kept toy:digits", "is not one of the classifier's 3 classes"),
    Row("evaluate kept photos --report text.png", "was not made by vlprompt"),
    Row("evaluate kept photos --report text.png/x.html", "cannot be written"),
    Row("evaluate kept photos --predictions text.png", "was not made by vlprompt"),
    Row("evaluate kept hollow", "has no usable image"),
    Row("evaluate kept photos --root /no/root --json maybe", "Unrecognized options: maybe"),
    Row("evaluate kept pets --root photos", "pets"),
    # bench.
    Row("bench --suite no-suite", "--suite"),
    Row("bench --out new --methods copo", "unknown method 'copo'"),
    Row("bench --out new --methods", "--methods is empty"),
    Row("bench --out new --methods ,", "--methods is empty"),
    Row("bench --out new --shots", "--shots is empty"),
    Row("bench --out new --seeds", "--seeds is empty"),
    Row("bench --out new --shots 0", "--shots 0"),
    Row("bench --out new --shots 1,-2", "--shots -2"),
    Row("bench --out new --shots 1,two", "--shots"),
    Row("bench --out new --seeds -1 --shots 1", "seed -1"),
    Row("bench --out new --seeds 1,x", "--seeds"),
    Row("bench --out new --datasets nowhere", "unknown data set 'nowhere'"),
    Row("bench --out new --protocols nowhere", "unknown protocol 'nowhere'"),
    Row("bench --out new --suite benchmark", "give --root"),
    Row(BENCH + "--set epochs=1", "METHOD.NAME=VALUE"),
    Row(BENCH + "--set coop.n_ctx=90", "90 context tokens"),
    Row(BENCH + "--set coop.speed=1", "has no setting 'speed'"),
    Row(BENCH + "--set coop.epochs=x", "'x' is no int"),
    Row(BENCH + "--set coop.epochs=-1", "epochs -1"),
    Row(BENCH + "--set coop.lr=nan", "lr nan"),
    Row(
        "bench --out new --suite benchmark --root /no/root --methods zeroshot --shots 1 --seeds 1", "/no/root"
    ),
    Row(BENCH + "--set vpt.epochs=1", "is not among --methods"),
    Row(BENCH + "--set coop.optimizer=x", "'x' is no"),
    Row(BENCH + "--workers -1", "--workers -1"),
    Row(BENCH + "--workers many", "--workers"),
    Row(BENCH + "--model /no/model", "/no/model"),
    Row("bench --methods coop --seeds 1 --shots 1 --out text.png", "cannot be written"),
    Row("bench --methods coop --seeds 1 --shots 1 --out text.png/x", "cannot be written"),
    Row("bench --plan --out given", "is no record", {"given/results.jsonl": "notes\n"}),
    Row(BENCH.replace("new", "given"), "report.html' exists: it was not made", {"given/report.html": "mine"}),
    recorded("record 1 of the results", "bench --plan --out .", seconds="x"),
    # compare.
    Row("compare", "Missing from vlprompt compare"),
    Row("compare nothing --out new", "data 'nothing'"),
    Row("compare hollow --out new", "has no usable image"),
    Row("compare one --out new", "holds one class only"),
    Row("compare toy:no-task --out new", "no-task"),
    Row("compare photos --out new --methods copo", "unknown method 'copo'"),
    Row("compare photos --out new --methods", "--methods is empty"),
    Row(COMPARE + "--shots 0", "--shots 0"),
    Row(COMPARE + "--shots 99", "none is left for testing"),
    Row(COMPARE + "--shots two", "--shots"),
    Row("compare photos --out new --methods zeroshot --seeds", "--seeds is empty"),
    Row("compare photos --out new --methods zeroshot --seeds -1", "seed -1"),
    Row(COMPARE + "--views -1", "views -1"),
    Row(COMPARE + "--views 100000", "views 100000"),
    Row(COMPARE + "--set coop.epochs=1", "is not among --methods"),
    Row(COMPARE + "--set zeroshot.speed=1", "has no setting 'speed'"),
    Row(COMPARE + "--workers -1", "--workers -1"),
    Row(COMPARE + "--model /no/model", "/no/model"),
    Row(COMPARE.replace("new", "text.png"), "cannot be written"),
    Row(COMPARE.replace("new", "text.png/x"), "cannot be written"),
    Row(
        COMPARE.replace("new", "given"), "report.html' exists: it was not made", {"given/report.html": "mine"}
    ),
    Row(COMPARE.replace("new", "given"), "is no record", {"given/results.jsonl": "notes"}),
    # report.
    Row("report", "Missing from vlprompt report: PATH"),
    Row("report nowhere", "results 'nowhere' do not exist"),
    Row("report photos", "results 'photos/results.jsonl' do not exist"),
    Row("report pipe.jpg", "results 'pipe.jpg' do not exist"),
    Row("report text.png --out new.html", "is no record"),
    Row("report empty.png --out new.html", "hold no finished run"),
    Row("report results.jsonl --out text.png", "was not made by vlprompt"),
    Row("report results.jsonl --out text.png/x.html", "cannot be written"),
    Row("report results.jsonl --out new.html --tables text.png", "cannot be written"),
    recorded("is no record", key=1),
    *(recorded("record 1", **{key: MISSING}) for key in RECORD if key not in ("key", "run")),
    *(recorded("record 1", **{f"run_{key}": MISSING}) for key in RUN),
    *(recorded("record 1", **{key: ["x"]}) for key in RECORD if key != "key"),
    *(recorded("record 1", **{f"run_{key}": ["x"]}) for key in RUN),
    recorded("unknown protocol", run_protocol="x"),
    recorded("metrics.test: 'accuracy' is missing", metrics={"test": {}}),
    Row("report results.jsonl --out new.html", "is no record", {"results.jsonl": "[]\n"}),
    Row("report results.jsonl --out new.html", "is no record", {"results.jsonl": '{"key": []}\n'}),
    Row("report results.jsonl --out new.html", "is no record", {"results.jsonl": "[" * 100_000 + "\n"}),
    Row(
        "report results.jsonl --out new.html", "is no record", {"results.jsonl": '{"key": "a", "x": 1e400}\n'}
    ),
    Row("report results.jsonl --out new.html", "is no record", {"results.jsonl": b"\xff\xd8\xff photo\n"}),
    # methods, words, data, toy, demo.
    Row("methods --model owner/clip", "built-in 'toy'"),
    Row("methods --model /no/model", "/no/model"),
    Row("methods extra", "extra"),
    Row("words", "Missing from vlprompt words: PATH"),
    Row("words nowhere", "nowhere' does not exist"),
    Row("words linear", "learns no text context"),
    Row("words kept --top many", "--top"),
    Row("words kept --method own.py", "holds no subclass", {"own.py": "x = 1"}),
    Row("data", "Missing from vlprompt data: {check}"),
    Row("data check", "Missing from vlprompt data: PATH"),
    Row("data check /no/root", "root '/no/root' is no folder"),
    Row("data check text.png", "is no folder"),
    Row("data look photos", "look"),
    Row("toy", "Missing from vlprompt toy: {pretrain}"),
    Row("toy train", "train"),
    Row("toy pretrain --size huge", "--size"),
    Row("toy pretrain --out photos", "was not made by vlprompt"),
    Row("toy pretrain --out new --seed -1", "seed -1"),
    Row("toy pretrain --out new --seed x", "--seed"),
    Row("toy pretrain --out /", "is no folder of its own"),
    Row("demo --shots 0 --out new", "shots 0"),
    Row("demo --shots 100000 --out new", "100000 shots are asked for"),
    Row("demo --seeds --out new", "there are no seeds"),
    Row("demo --seeds x --out new", "--seeds"),
    Row("demo --seeds -1 --out new", "seed -1"),
    Row("demo --out text.png", "cannot be written"),
    Row("demo --out text.png/below", "cannot be written"),
    # export.
    Row("export", "Missing from vlprompt export: PATH"),
    Row("export kept", "Missing from vlprompt export: PATH"),
    Row("export nowhere new.onnx", "nowhere' does not exist"),
    Row("export kept new.txt", ".onnx"),
    Row("export kept kept", "no name of an ONNX file"),
    Row("export kept kept --format transformers", "is a classifier and no export"),
    Row("export kept text.png --format transformers", "is no export of ours"),
    Row("export kept new.onnx --format weird", "--format"),
    Row("export kept text.png/new.onnx", "cannot be written"),
    Row("export kept new.onnx", "was not made by vlprompt", {"new.onnx": "mine"}),
    Row("export kept new.onnx", "was not made by vlprompt", {"new.json": "{}"}),
    Row("export kept photos/new.onnx --device tpu9", "tpu9"),
    Row("export visual new --format transformers", "has visual prompts"),
    # serve and app.
    Row("serve", "Missing from vlprompt serve: PATH"),
    Row("serve nowhere --port 0", "nowhere' does not exist"),
    Row("serve kept --port 99999", "port 99999 "),
    Row("serve kept --port -1", "port -1"),
    Row("serve kept --port x", "--port"),
    Row("serve kept --port 0 --host no-host.invalid", "no-host"),
    Row("serve kept --port 0 --host ''", "--host is empty"),
    Row("serve kept --port 0 --max-batch 0", "--max-batch 0"),
    Row("serve kept --port 0 --max-images 0", "--max-images 0"),
    Row("serve kept --port 0 --max-body-mb nan", "--max-body-mb nan"),
    Row("serve kept --port 0 --max-body-mb inf", "--max-body-mb inf"),
    Row("serve kept --port 0 --max-body-mb 0", "--max-body-mb 0"),
    Row("serve kept --port 0 --max-megapixels 1e9", "--max-megapixels"),
    Row("serve kept --port 0 --wait-ms -5", "--wait-ms -5"),
    Row("serve kept --port 0 --device tpu9", "tpu9"),
    Row("serve kept --port 0 --method own.py", "own.py"),
    Row("app nowhere --port 0", "nowhere' does not exist"),
    Row("app --port 99999", "port 99999 "),
    Row("app --port 0 --host ''", "--host is empty"),
    Row("app --port 0 --model /no/model", "/no/model"),
    Row("app --port 0 --device tpu9", "tpu9"),
    Row("app photos --port 0", "has no config.json"),
    # A classifier that is damaged.
    Row("words given", "has no config.json", {"given/config.json": None}),
    Row("words given", "has no prompts.safetensors", {"given/prompts.safetensors": None}),
    damaged("labels", labels=["a"]),
    damaged("labels", labels=None),
    damaged("labels", labels=[["a"], ["b"], ["c"]]),
    damaged("0 classes", classnames=[], labels=[]),
    damaged("1 classes", classnames=["a"], labels=["a"]),
    damaged("classnames", classnames=None),
    damaged("classnames abc", classnames="abc"),
    damaged("classnames[0] 1", classnames=[1, 2, 3]),
    damaged("a class without a name", classnames=["a", "b", ""], labels=["a", "b", ""]),
    damaged("half a character", classnames=["a", "b", "\ud800"], labels=["a", "b", "c"]),
    damaged("options", options={"seed": 1, "verbose": True}),
    damaged("seed 1", options=OPTIONS | {"seed": "1"}),
    damaged("int1", options=OPTIONS | {"precision": "int1"}),
    damaged("options None", options=None),
    damaged("preset None", preset=None),
    damaged("templates", templates=["a photo"]),
    damaged("templates", templates=[]),
    damaged("templates None", templates=None),
    damaged("backbone toy", backbone="toy"),
    damaged("'name' is missing", backbone={"revision": None}),
    damaged("../other", backbone={"name": "../other", "revision": None}),
    damaged("measured", measured=[1]),
    damaged("high", measured={"test": {"accuracy": "high"}}),
    damaged("format 1", format="1"),
    damaged("format None", format=None),
    damaged("is of format 99", format=99),
    damaged("format -1", format=-1),
    damaged("method 7", method=7),
    damaged("unknown method 'nowhere'", method="nowhere"),
    damaged("made by a method of its own", method="own.py"),
    damaged("made by a method of its own", method="coop+/tmp/own.py"),
    damaged("unknown method ''", method="coop+"),
    damaged("does not know", method="vpt"),
    damaged("'more' is not known", more=1),
    damaged("settings", settings=[1]),
    damaged(
        "no context for each of its classes",
        classnames=["x"] * 90_000,
        labels=["x"] * 90_000,
        settings={"class_specific": True, "n_ctx": 16},
    ),
    of_setting("n_ctx 2", n_ctx="2"),
    of_setting("n_ctx None", n_ctx=None),
    of_setting("n_ctx 1.5", n_ctx=1.5),
    of_setting("n_ctx 1000000000", n_ctx=10**9),
    of_setting("n_ctx True", n_ctx=True),
    of_setting("do not fit method 'coop'", n_ctx=3),
    of_setting("77", n_ctx=500),
    of_setting("position nowhere", position="nowhere"),
    of_setting("optimizer 7", optimizer=7),
    of_setting("'more'", more=1),
    raw("config.json", ""),
    raw("config.json", "[" * 100_000),
    raw("config.json", '{"a":' * 50_000),
    raw("config.json", '{"format": 1e400}'),
    raw("config.json", '{"format": NaN}'),
    raw("config.json", '{"format": ' + "9" * 10_000 + "}"),
    raw("config.json", "[]"),
    raw("config.json", b"\xff\xfe{}"),
    raw("config.json", "null"),
    raw("history.json", ""),
    raw("history.json", "[" * 100_000),
    raw("history.json", '{"a":' * 50_000),
    raw("history.json", "[1]"),
    raw("history.json", b"\xff\xfe{}"),
    raw("history.json", "null"),
    raw("prompts.safetensors", b""),
    raw("prompts.safetensors", b"\xff" * 100),
    raw("prompts.safetensors", claims([2**40, 128], 2**49)),
    raw("prompts.safetensors", claims([2, 128], 2**49)),
    raw("prompts.safetensors", save({"ctx": ones(2, 128) * float("nan")}), "no numbers"),
    raw("prompts.safetensors", save({"ctx": ones(2, 128).double()}), "do not fit method 'coop'"),
    raw("prompts.safetensors", save({"ctx": ones(2, 5)}), "do not fit method 'coop'"),
    raw("prompts.safetensors", save({"other": ones(2, 128)}), "do not fit method 'coop'"),
    raw("prompts.safetensors", save({}), "do not fit method 'coop'"),
    raw("prompts.safetensors", save({"ctx": ones(2, 128), "more": ones(1)}), "do not fit method 'coop'"),
    # Python: the estimator.
    *(
        Row(f">>> PromptClassifier({wrong}).{X}", says)
        for wrong, says in (
            ("augment='x'", "augment x"),
            ("preset=None", "preset None"),
            ("views=1.5", "views 1.5"),
            ("views=-1", "views -1"),
            ("method=7", "method 7"),
            ("model=None", "model None"),
            ("settings=[1]", "settings"),
            ("settings={1: 2}", "settings"),
            ("device=3", "device 3"),
            ("settings={'optimizer': 'nope'}", "optimizer nope"),
            ("precision='half'", "precision half"),
            ("settings={'epochs': 'many'}", "epochs many"),
            ("seed=-1", "seed -1"),
            ("seed=1.5", "seed 1.5"),
            ("clip_grad=0", "clip_grad 0"),
            ("clip_grad='big'", "clip_grad big"),
            ("verbose='yes'", "verbose"),
            ("templates='a {}.'", "are no list"),
            ("templates=(7,)", "template '7'"),
            ("templates=()", "template ''"),
            ("class_names=['a']", "no name in class_names"),
            ("templates=7", "are no list"),
            ("class_names=7", "class_names 7"),
            ("class_names='abc'", "class_names 'abc'"),
            ("settings={'speed': 1}", "no setting 'speed'"),
            ("'nowhere'", "unknown method 'nowhere'"),
            ("'dpl+kgcoop+kgcoop'", "added twice"),
            ("model='/no/model'", "/no/model"),
            ("preset='x'", "no preset 'x'"),
            ("device='tpu9'", "tpu9"),
        )
    ),
    *(
        Row(f">>> PromptClassifier(settings={{'epochs': 1}}).fit({given})", says)
        for given, says in (
            ("[], []", "0 class"),
            ("X, y[:-1]", "give one label an image"),
            ("X, y[:1] * len(X)", "1 class"),
            ("'photos', y", "is one image"),
            ("Path('photos'), y", "is one image"),
            ("np.zeros((4, 9), np.uint8), y[:4]", "is not N images"),
            ("np.zeros((9, 9, 3)), ['a'] * 9", "is not N images"),
            ("np.zeros((4, 9, 9, 5)), list('abab')", "is not an image"),
            ("np.full((4, 9, 9), 7.), list('abab')", "values from 0 to 1"),
            ("np.full((4, 9, 9), np.nan), list('abab')", "values from 0 to 1"),
            ("np.zeros((4, 9, 9), complex), list('abab')", "is not an image"),
            ("np.zeros((4, 0, 9), np.uint8), list('abab')", "is not an image"),
            ("X, y, X_val=X", "both X_val and y_val"),
            ("X, y, X_val=X, y_val=['x'] * len(X)", "label 'x' is not among"),
            ("[None] * 4, list('abab')", "NoneType is not an image"),
            ("[b''] * 4, list('abab')", "bytes is not an image"),
            ("['text.png'] * 4, list('abab')", "text.png"),
            ("['nowhere.png'] * 4, list('abab')", "nowhere.png"),
            ("X, [[1]] * len(X)", "give one label an image"),
        )
    ),
    *(
        Row(f">>> kept.set_classes({given})", says)
        for given, says in (
            ("'abc'", "are no list"),
            ("b'abc'", "are no list"),
            ("[]", "class name ''"),
            ("[1, 2]", "class name 1"),
            ("['a', '']", "class name ''"),
            ("['a', 'word ' * 600]", "77"),
            ("['a', 'b'], ('no place',)", "no place"),
            ("['a', 'b'], '{}'", "are no list"),
            ("['a', 'b'], ()", "template ''"),
            ("None", "are no list"),
            ("7", "are no list"),
            ("['a', None]", "class name None"),
        )
    ),
    Row(">>> linear.set_classes(['a', 'b'])", "linear probe knows only"),
    *(
        Row(f">>> kept.{call}", says)
        for call, says in (
            ("predict('photos/green/0.png')", "is one image"),
            ("predict([None])", "NoneType is not an image"),
            ("predict(['nowhere.png'])", "nowhere.png"),
            ("predict(['long.png'])", "100 times"),
            ("predict(np.zeros((1, 4000, 3), np.uint8))", "is not N images"),
            ("predict([np.zeros((1, 4000, 3), np.uint8)])", "100 times"),
            ("predict([Image.new('L', (4000, 1))])", "100 times"),
            ("predict(7)", "int is no list"),
            ("evaluate([])", "no images to measure on"),
            ("explain('nowhere.png')", "nowhere.png"),
            ("explain(X[0], 'nobody')", "nobody"),
            ("save('photos')", "was not made by vlprompt"),
            ("save('text.png/x')", "cannot be written"),
            ("save('/')", "is no folder of its own"),
            ("save('')", "was not made by vlprompt"),
        )
    ),
    *(
        Row(f">>> {call}", says)
        for call, says in (
            ("PromptClassifier.load('nowhere')", "does not exist"),
            ("PromptClassifier.load('photos')", "has no config.json"),
            ("PromptClassifier.load('kept', device='tpu9')", "tpu9"),
            ("PromptClassifier.load('kept', 'clip')", "the same backbone"),
            ("Lengths((1,), (-1,))", "vision[0] -1"),
            ("uniform_lengths(Lengths((1,), (1,)), 9)", "9 tokens do not fit"),
            ("data.load('nothing')", "nothing"),
            ("data.few_shot(data.load('photos'), 0, 1)", "shots 0"),
            ("data.few_shot(data.load('photos'), 99, 1)", "99 shots"),
            ("data.open_image('folder.jpg')", "no regular file"),
            ("data.open_image(7)", "int is not an image"),
            ("data.open_image(np.zeros((2, 2, 2)))", "is not an image"),
            ("get_method('x')", "unknown method 'x'"),
            ("get_method('kgcoop+kgcoop')", "adds already"),
            ("get_method('zeroshot+kgcoop')", "learns no prompts"),
            ("get_method('own.py')", "unknown method"),
            ("export_onnx(kept, 'new.txt')", ".onnx"),
            ("export_transformers(linear, 'new')", "forward of its own"),
        )
    ),
    *(
        Row(">>> Lengths.load('l.json')", "cannot be read", {"l.json": content})
        for content in (
            '{"text": [1]}',
            '{"text": 3, "vision": [1]}',
            '{"text": [1.5], "vision": [1]}',
            '{"text": [true], "vision": [1]}',
            '{"text": [1000000000], "vision": [1]}',
            '{"text": [1], "vision": [-1]}',
            '{"text": [1], "vision": [1], "x": 1}',
            "[]",
            "null",
            "7",
            "",
            "[" * 10_000,
        )
    ),
]
