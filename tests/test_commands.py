"""The command line: what it prints, its exit codes, and what it says of wrong input. No traceback for a user's mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from npasbench.cli import npasbench
from npasbench.errors import NpasbenchError


def call(*words: str) -> tuple[int, str]:
    """One command in this process: exit code and everything it said."""
    try:
        result = CliRunner().invoke(npasbench, list(words), standalone_mode=False, catch_exceptions=False)
    except NpasbenchError as error:
        return error.exit_code, str(error)
    return result.exit_code, result.output


def run(*words: str, cwd: Path | None = None) -> tuple[int, str]:
    """One command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "npasbench", *words], capture_output=True, text=True, timeout=200, cwd=cwd, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "digits15-wrn-10-1", "--method", "rost"], 2, "Did you mean 'roast'?"),
        (["run", "digit15"], 2, "Did you mean 'digits15'"),
        (["run", "digits15-wrn-10-1"], 2, "name a method with --method"),
        (["run", "digits15", "--method", "roast"], 2, "is a suite and names its methods"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--set", "tyle=3"], 2, "Did you mean 'tile'?"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--set", "tile=-3"], 2, "Knob 'tile' of roast was given -3"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--set", "tile"], 2, "is not KNOB=VALUE"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--budget", "much"], 2, "'much' is not a parameter budget"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--budget", "0"], 2, "leaves no parameters"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--budget", "-1"], 2, "is not a parameter budget"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--budget", "nan"], 2, "is not a parameter budget"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--seeds", "a-b"], 2, "is not a list of seeds"),
        (["run", "nowhere.toml", "--method", "roast"], 2, "There is no file nowhere.toml"),
        (["show", "tempalte-bank"], 2, "Did you mean 'template-bank'?"),
        (["inspect", "naive", "--architecture", "wrn-16-4", "--budget", "0.01"], 1, "naive needs at least"),
        (["inspect", "naive", "--architecture", "wrn-17-4"], 2, "nearest: 16 and 22"),
        (["inspect", "dense", "--architecture", "wrn-16-4", "--input", "3,x"], 2, "is not an input shape"),
        (["inspect", "dense", "--architecture", "wrn-16-4", "--budget", "1", "--bank-size", "5"], 2, "not both"),
        (["status", "nowhere"], 2, "There is no folder nowhere"),
        (["retry", "nowhere"], 2, "There is no folder nowhere"),
        (["export", "nowhere"], 2, "nowhere is not a run directory"),
        (["new-method", "My Idea"], 2, "cannot name a method"),
        (["new-method", "narrow"], 2, "it is the name of a method of npasbench"),
        (["new-method", "class"], 2, "class is a word of Python itself. Choose another, such as my-class."),
        (["new-method", "none"], 2, "None is a word of Python itself"),
        (["new-method", "json"], 2, "json.py would hide Python's own module json"),
        (["new-method", "torch"], 2, "torch.py would hide the installed module torch"),
        (["new-method", "one-vector"], 2, "its class would be OneVector, which its file has another use for"),
        (["plan", "digits15", "--label", "mine"], 2, "--method, --label, --set and --with belong to a task"),
        (["list", "--plugin", "nope.mod"], 2, "There is no plugin module 'nope.mod'"),
        (["list", "--plugin", "nope.py"], 2, "There is no plugin file"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--budget", "2000B"], 2, "is more than 10^12 parameters"),
        (["plan", "digits15-wrn-10-1", "--method", "roast", "--budget", "99M"], 2, "more than 1,000 times the dense"),
        (["run", "digits15-wrn-10-1", "--method", "roast", "--seeds", "3-1"], 2, "'3-1' is reversed. Write 1-3."),
        (["run", "digits15", "--device", "gpu"], 2, "There is no device 'gpu' here. Name one of these: cpu"),
        (["run", "digits15", "--device", "cuda:99"], 2, "There is no device 'cuda:99' here. Name one of these: cpu"),
        (["run", "digits15", "--device", "meta"], 2, "There is no device 'meta' here"),
        (["check", "rost"], 2, "Did you mean 'roast'?"),
        (["stauts"], 2, "Did you mean 'status'"),
    ],
)
def test_wrong_input_gets_a_sentence_and_the_right_exit_code(words: list[str], code: int, said: str) -> None:
    assert call(*words)[0] == code
    assert said in call(*words)[1]


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_folder_of_runs_that_is_a_file_is_told_before_anything_starts(verb: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = call(verb, "digits15-wrn-10-1", "--method", "roast", "--runs", str(tmp_path / "file"))
    assert (code, said) == (
        2,
        f"--runs was given {tmp_path / 'file'}, which is a file. Name a folder; it is made if it is not there.",
    )


def test_plan_shows_runs_under_their_label() -> None:
    code, said = call("plan", "digits15-wrn-10-1", "--method", "roast", "--label", "mine", "--budget", "0.1")
    assert code == 0
    assert "digits15-wrn-10-1  mine" in said


ONE_RUN = ("run", "digits15-wrn-10-1", "--method", "shallow", "--budget", "0.1", "--seeds", "0-2", "--device", "cpu")


def test_a_plugin_that_names_its_method_as_an_installed_one_exits_2_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from npasbench.baselines.roast import Roast\nclass Narrow(Roast):\n    pass\n")
    code, said = run(*ONE_RUN, "--plugin", "mine.py", cwd=tmp_path)
    assert code == 2
    assert said.count("\n") == 1
    assert "names its class Narrow 'narrow', but that is the name of a method of npasbench" in said


def test_a_plugin_module_that_is_not_there_exits_2_in_one_sentence(tmp_path: Path) -> None:
    code, said = run(*ONE_RUN, "--plugin", "nope.mod", cwd=tmp_path)
    assert (code, said) == (
        2,
        "npasbench: There is no plugin module 'nope.mod'. Name an importable module, or an existing .py file.\n",
    )


def test_runs_that_cannot_be_written_are_told_once_as_blocked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = run(*ONE_RUN, "--runs", "file/runs", cwd=tmp_path)
    assert code == 1
    assert said.count("blocked") == 1
    assert "3 runs blocked: file/runs/" in said
    assert "cannot be written: Not a directory" in said
    assert "held by other workers" not in said
    assert "Show them" not in said


def test_nothing_is_shown_where_nothing_is_done(tmp_path: Path) -> None:
    code, said = run(*ONE_RUN, cwd=tmp_path)
    assert (code, "3 runs: 3 skipped." in said, "Show them" in said) == (0, True, False)


@pytest.mark.slow
def test_a_corrupt_result_is_named_with_what_is_wrong_and_the_cure_and_retry_sets_it_aside(tmp_path: Path) -> None:
    run(*ONE_RUN, cwd=tmp_path)
    result = next(tmp_path.glob("runs/*/shallow/0.1/seed1-*/result.json"))
    result.write_text('{"schema": 1, "state": "skip')
    code, said = run(*ONE_RUN, cwd=tmp_path)
    assert code == 1
    assert f"corrupt: {result.relative_to(tmp_path)} cannot be read: Unterminated string" in said
    assert "do it again with: npasbench retry runs" in said
    code, said = run("retry", "runs", "--device", "cpu", cwd=tmp_path)
    assert (code, "1 run: 1 skipped." in said) == (0, True)
    assert result.with_name("result.previous.json").read_text() == '{"schema": 1, "state": "skip'
    assert json.loads(result.read_text())["state"] == "skipped"


def test_a_mistake_on_the_real_command_line_prints_no_traceback() -> None:
    code, said = run("run", "digits15-wrn-10-1", "--method", "rost")
    assert code == 2
    assert said.startswith("npasbench: Unknown method 'rost'. Did you mean 'roast'?")


def test_an_unknown_option_exits_2() -> None:
    assert run("list", "--nonsense")[0] == 2


def test_list_shows_methods_tasks_and_suites() -> None:
    listed = json.loads(call("list", "--json")[1])
    assert {"dense", "narrow", "shallow", "naive", "template-bank", "hashed", "roast", "magnitude"} <= set(
        listed["methods"]
    )
    assert {"digits15-wrn-10-1", "digits15-wrn-16-2", "digits15-transformer", "digits15-ensemble"} <= set(
        listed["tasks"]
    )
    assert {"cifar100-multi-depth-width", "cifar100-multi-width"} <= set(listed["tasks"])
    assert {"quickstart", "digits15", "ensembles"} <= set(listed["suites"])


def test_show_resolves_a_tasks_budgets() -> None:
    shown = json.loads(call("show", "digits15-wrn-10-1", "--json")[1])
    assert shown["dense_parameters"] == 77_562
    assert shown["budgets"]["0.1"] == 7_756


def test_show_gives_a_methods_knobs_and_citation() -> None:
    shown = json.loads(call("show", "roast", "--json")[1])
    assert shown["knobs"]["tile"]["default"] == 16
    assert "ROAST" in shown["cite"]


def test_inspect_shows_each_layer_and_the_counts() -> None:
    words = ["template-bank", "--architecture", "wrn-16-4", "--classes", "100", "--budget", "0.5", "--json"]
    shown = json.loads(call("inspect", *words)[1])
    assert shown["dense"] == 2_772_020
    assert len(shown["layers"]) == 17
    assert shown["layers"][0]["shape"] == [16, 3, 3, 3]
    assert shown["parameters"]["total"] <= shown["budget"] == 1_386_010
    assert shown["parameters"]["norm"] == 3_616
    assert shown["parameters"]["bias"] == 100


def test_inspect_takes_the_papers_count_too() -> None:
    words = [
        "naive",
        "--architecture",
        "wrn-16-4",
        "--classes",
        "100",
        "--bank-size",
        "100000",
        "--set",
        "scope=all",
        "--json",
    ]
    shown = json.loads(call("inspect", *words)[1])
    assert shown["parameters"]["bank"] == 100_000


@pytest.mark.slow
def test_a_suite_is_run_shown_retried_exported_and_put_on_a_leaderboard(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    card = small_card(3)
    (tmp_path / "broken.py").write_text(
        "from npasbench.baselines.roast import Roast\n"
        "from pathlib import Path\n"
        "class Broken(Roast):\n"
        "    def after_step(self, network, progress):\n"
        "        if not Path(__file__).with_name('mended').exists():\n"
        "            raise ValueError('a bug')\n"
    )
    suite = tmp_path / "mine.toml"
    suite.write_text(
        f'schema = 1\nname = "mine"\ntitle = "Mine"\ntasks = ["{card}"]\nbudgets = [0.1, 1]\nseeds = [0, 1]\n'
        '[[entry]]\nlabel = "narrow"\nmethod = "narrow"\n'
        '[[entry]]\nlabel = "roast-8"\nmethod = "roast"\nset = { tile = 8 }\n'
        '[[entry]]\nlabel = "naive"\nmethod = "naive"\n'
        '[[entry]]\nlabel = "broken"\nmethod = "broken"\n'
    )
    plugin = ["--plugin", "broken.py"]
    code, said = run("run", "mine.toml", *plugin, "--device", "cpu", cwd=tmp_path)
    assert code == 1
    assert "16 runs: 10 done, 4 failed, 2 refused." in said
    assert "raised ValueError: a bug in broken.py:6 (after_step)" in said

    code, said = run("plan", "mine.toml", *plugin, "--json", cwd=tmp_path)
    assert code == 0
    planned = json.loads(said)
    assert planned["runs"] == 16
    (naive,) = [cell for cell in planned["cells"] if (cell["label"], cell["budget"]) == ("naive", "0.1")]
    assert (naive["task"], naive["parameters"]) == ("digits15-wrn-10-1", 7756)
    assert (naive["states"], naive["open"]) == ({"refused": 2}, 0)
    assert (planned["states"], planned["open"]) == ({"done": 10, "failed": 4, "refused": 2}, 4)

    code, said = run("status", "runs", "--json", cwd=tmp_path)
    assert code == 1
    assert json.loads(said)["states"] == {"done": 10, "failed": 4, "refused": 2}

    (tmp_path / "mended").touch()
    code, said = run("retry", "runs", cwd=tmp_path)
    assert (code, "4 runs: 4 done." in said) == (0, True)
    assert run("status", "runs", cwd=tmp_path)[0] == 0

    (folder,) = (tmp_path / "runs/digits15-wrn-10-1/roast-8/0.1").glob("seed0-*")
    code, said = run("export", str(folder), "--out", "dense.safetensors", cwd=tmp_path)
    trained = json.loads((folder / "result.json").read_text())["parameters"]["total"]
    assert (code, f"77,562 parameters (from {trained:,} that were trained)" in said) == (0, True)
    assert "other shapes" not in said
    assert_exported_network_predicts_the_same(folder, tmp_path / "dense.safetensors")

    (narrow,) = (tmp_path / "runs/digits15-wrn-10-1/narrow/0.1").glob("seed0-*")
    code, said = run("export", str(narrow), cwd=tmp_path)
    assert (code, "38 tensors of other shapes than the architecture's" in said) == (0, True)

    code, said = run("leaderboard", "runs", "--out", "site", cwd=tmp_path)
    assert code == 0
    assert (tmp_path / "site/index.html").exists()
    assert "roast-8" in "".join(page.read_text() for page in (tmp_path / "site").rglob("*.html"))


def assert_exported_network_predicts_the_same(folder: Path, exported: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from npasbench.data import load
    from npasbench.networks import architecture
    from npasbench.running.rundir import RunDirectory

    spec = RunDirectory(folder).spec()
    data = load(spec.task.data, seed=spec.seed)
    network = architecture("wrn-10-1", classes=10, input_shape=(1, 8, 8)).create()
    network.load_state_dict(load_file(exported))
    with torch.no_grad():
        right = (network.eval()(data.test_inputs).argmax(1) == data.test_labels).numpy()
    assert np.array_equal(np.packbits(right), np.load(folder / "correct.npy"))


@pytest.mark.slow
def test_two_runs_of_one_suite_at_the_same_time_do_nothing_twice(
    small_card: Callable[..., Path], tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "npasbench", "run", str(small_card(6)), "--method", "roast", "--budget", "0.1"]
    words += ["--seeds", "0-5", "--runs", str(tmp_path / "runs"), "--workers", "2", "--device", "cpu"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    finished = [line for text in said for line in text.splitlines() if ": done, accuracy" in line]
    assert len(finished) == 6
    assert not any("Traceback" in text for text in said)
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("log.txt")]
    assert [log.count("claimed by process") for log in logs] == [1] * 6


def test_a_new_method_of_single_letters_is_checked_under_its_name(tmp_path: Path) -> None:
    assert run("new-method", "a-b-2", cwd=tmp_path)[0] == 0
    assert json.loads(call("show", "a-b-2", "--plugin", str(tmp_path / "a_b_2.py"), "--json")[1])["method"] == "a-b-2"


@pytest.mark.slow
def test_a_new_method_works_from_the_start(tmp_path: Path) -> None:
    code, said = run("new-method", "my-idea", cwd=tmp_path)
    assert (code, "npasbench check my-idea" in said) == (0, True)
    assert len([line for line in (tmp_path / "my_idea.py").read_text().splitlines() if line.strip()]) <= 36
    code, said = run("check", "my-idea", "--plugin", "my_idea.py", cwd=tmp_path)
    assert (code, said.strip().endswith("my-idea keeps the contract.")) == (0, True)
    assert "gradients reach every parameter tensor: in one epoch they reach" in said
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_my_idea.py", "-p", "no:cacheprovider"], cwd=tmp_path, check=False
    )
    assert tested.returncode == 0
    assert run("new-method", "my-idea", cwd=tmp_path)[0] == 2


@pytest.mark.slow
def test_check_names_a_parameter_that_no_gradient_reaches(tmp_path: Path) -> None:
    (tmp_path / "idle.py").write_text(
        "import torch\n"
        "from npasbench.baselines.roast import Roast\n"
        "class Idle(Roast):\n"
        "    def generator(self, layers, parameters, rng):\n"
        "        made = super().generator(layers, parameters - 1, rng)\n"
        "        made.idle = torch.nn.Parameter(torch.zeros(1))\n"
        "        return made\n"
    )
    code, said = call("check", "idle", "--plugin", str(tmp_path / "idle.py"))
    assert code == 1
    assert "reach every parameter tensor: no gradient reaches generator.idle, which is counted all the same" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("return {}", "must return exactly one weight for each layer; missing: stem.weight"),
        ("return {**out, 'foo': self.bank}", "unknown: foo"),
        ("return {n: w[:1] for n, w in out.items()}", "for 'stem.weight', which needs [16, 1, 3, 3]"),
        ("return out['nothing']", "raised KeyError: 'nothing' in wrong.py:5 (forward)"),
        ("return {n: w * float('nan') for n, w in out.items()}", "returned NaN or infinite values for 'stem.weight'"),
    ],
)
def test_check_names_what_a_wrong_generator_returns(wrong: str, said: str, tmp_path: Path) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "from npasbench.baselines.naive import Naive, OneVector\n"
        "class G(OneVector):\n"
        "    def forward(self):\n"
        "        out = super().forward()\n"
        f"        {wrong}\n"
        "class Wrong(Naive):\n"
        "    def generator(self, layers, parameters, rng):\n"
        "        return G(layers, parameters, rng)\n"
    )
    code, output = call("check", "wrong", "--plugin", str(plugin))
    assert code == 1
    assert said in output
    assert "wrong breaks the contract" in output
