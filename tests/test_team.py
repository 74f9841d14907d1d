"""Several processes that train one run: the same result as one process, whatever happens to one of them."""

from __future__ import annotations

import copy
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from team_training import CASES, CPU, ROOT, Case, Quiet, join_and_train, train
from torch import Tensor, nn

from npasbench.baselines.dense import Dense
from npasbench.card import Entry, Recipe, Schedule, read_card
from npasbench.commands.run import run
from npasbench.errors import CardError, UsageError
from npasbench.method import Batch
from npasbench.plan import RunSpec, plan_entry
from npasbench.registry import Registry
from npasbench.running import dispatch
from npasbench.running.dispatch import Pool
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options
from npasbench.training.loop import Training
from npasbench.training.team import Statistics, Team, check_parts, parts_of


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each process of a team of two holds after the trainings."""
    folder = tmp_path_factory.mktemp("team")
    dispatch.warm_up()
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=join_and_train, args=(rank, 2, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains_with_the_same_parts(
    name: str, of_two: list[dict[str, dict[str, Tensor]]]
) -> None:
    one = train(CASES[name])
    assert len(one["losses"]) == CASES[name].epochs
    first, second = (every[name] for every in of_two)
    assert first.keys() == one.keys()
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        near = 1e-6 if key == "losses" else 1e-9  # they are added up in float32
        assert torch.allclose(first[key].double(), value.double(), rtol=0, atol=near), key


def test_a_norm_that_sees_parts_trains_another_network_than_one_that_sees_the_whole_batch() -> None:
    plain, whole, parts = (train(Case("wrn-10-1", 50, images, epochs=1)) for images in (None, 50, 25))
    assert all(torch.equal(plain[key], value) for key, value in whole.items())
    name = next(key for key in whole if key.endswith("running_var"))
    assert (whole[name] - parts[name]).abs().max() > 1e-6


def test_one_batch_in_parts_has_the_gradients_and_statistics_worked_out_by_hand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    inputs, labels = torch.randn(7, 3).double(), torch.randint(4, (7,))
    settings = {"epochs": 1, "batch_size": 7, "threads": 1, "norm_images": 4}
    recipe = Recipe(**settings, optimizer={"name": "sgd", "lr": 1.0}, schedule=Schedule(name="constant"))
    expected = copy.deepcopy(network)
    norm, total = expected[1], torch.zeros(())
    means, variances = [], []
    for part in (slice(0, 4), slice(4, 7)):
        hidden = expected[0](inputs[part])
        means.append(0.9 * norm.running_mean + 0.1 * hidden.mean(0))
        variances.append(0.9 * norm.running_var + 0.1 * hidden.var(0))
        centred = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
        logits = centred * norm.weight + norm.bias
        total = total + nn.functional.cross_entropy(logits, labels[part], reduction="sum") / 7
    total.backward()

    class OneBatch:
        steps_per_epoch = 1

        def epoch(self, epoch: int, start_step: int = 0, rows: object = None) -> Iterator[Batch]:
            yield Batch(inputs, labels, torch.arange(7))

    Training(Dense(), network, recipe, OneBatch(), CPU).run(Quiet())
    for trained, start in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(trained, start - start.grad, atol=1e-12)
    assert torch.allclose(network[1].running_mean, sum(means) / 2, atol=1e-12)
    assert torch.allclose(network[1].running_var, sum(variances) / 2, atol=1e-12)
    assert network[1].num_batches_tracked == 1


# Parts


def lengths(total: int, norm_images: int | None, size: int) -> list[list[int]]:
    """How many images each part has, by process; every image is in one of them."""
    batch = Batch(torch.zeros(total, 1), torch.zeros(total), torch.arange(total))
    found = [parts_of(batch, norm_images, Team(rank, size)) for rank in range(size)]
    assert torch.cat([part.indices for parts, _ in found for part in parts]).tolist() == list(range(total))
    assert {count for _, count in found} == {sum(len(parts) for parts, _ in found)}
    return [[len(part.labels) for part in parts] for parts, _ in found]


@pytest.mark.parametrize(
    ("total", "norm_images", "size", "expected"),
    [
        (50, None, 1, [[50]]),
        (50, 25, 1, [[25, 25]]),
        (50, None, 2, [[25], [25]]),
        (49, None, 2, [[25], [24]]),
        (50, 20, 2, [[20], [20, 10]]),
        (41, 20, 2, [[20], [21]]),
        (21, 20, 2, [[21], []]),
        (2, None, 2, [[2], []]),
        (9, 25, 2, [[9], []]),
    ],
)
def test_a_batch_is_cut_into_consecutive_parts(
    total: int, norm_images: int | None, size: int, expected: list[list[int]]
) -> None:
    assert lengths(total, norm_images, size) == expected


def test_no_norm_is_given_a_single_image_whatever_the_sizes() -> None:
    for total in range(2, 30):
        for norm_images in (2, 3, 7, 40):
            for size in (1, 2, 3, 4):
                assert min(one for each in lengths(total, norm_images, size) for one in each) >= 2


def test_statistics_restart_for_each_part_and_norms_that_are_not_trained_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    before = copy.deepcopy(network[1].state_dict())
    statistics = Statistics(network)
    for value in (1.0, 3.0):
        with statistics.of_one_part():
            network(torch.full((4, 2), value))
    statistics.finish(2, Team())
    assert torch.allclose(network[0].running_mean, torch.full((2,), 0.2))
    assert network[0].num_batches_tracked == 1
    assert all(torch.equal(before[key], value) for key, value in network[1].state_dict().items())


# What cannot be shared


class Cards:
    """Writes short cards of the digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, *, norm_images: int | None = None, epochs: int = 3, **keys: str) -> Path:
        """``keys`` replace lines of the recipe of wrn-10-1 or transformer."""
        text = (ROOT / "tasks" / f"digits15-{name}.toml").read_text(encoding="utf-8")
        keys = {"epochs": str(epochs), **keys, **({"norm_images": str(norm_images)} if norm_images else {})}
        head, _, recipe = text.partition("[recipe]\n")
        kept = [line for line in recipe.splitlines() if line.partition(" = ")[0] not in keys]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join([head + "[recipe]", *kept, *(f"{k} = {v}" for k, v in keys.items()), ""]))
        return path


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


def test_a_norm_that_would_see_less_than_the_card_says_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"see 25 images at once.* Set norm_images = 25 .* or take one GPU"):
        check_parts(nn.BatchNorm1d(2), 50, None, Team(size=2))
    check_parts(nn.BatchNorm1d(2), 50, None, Team())
    check_parts(nn.LayerNorm(2), 50, None, Team(size=2))
    check_parts(nn.BatchNorm1d(2), 50, 25, Team(size=2))


def test_parts_too_large_for_the_team_are_refused_with_how_many_can_share() -> None:
    with pytest.raises(UsageError, match=r"norm_images = 20 cannot be shared by 3 GPUs\. Take at most 2\."):
        check_parts(nn.BatchNorm1d(2), 50, 20, Team(size=3))
    with pytest.raises(UsageError, match=r"Take at most 1\."):
        check_parts(nn.BatchNorm1d(2), 50, 50, Team(size=2))


def test_a_card_whose_norm_sees_more_than_a_batch_or_a_single_image_is_refused(cards: Cards) -> None:
    with pytest.raises(CardError, match=r"recipe.*'norm_images' is 51, more than a batch of 50 has"):
        read_card(cards("wrn-10-1", norm_images=51))
    with pytest.raises(CardError, match=r"recipe\.norm_images.*greater than or equal to 2"):
        read_card(cards("wrn-10-1", norm_images=1))


def test_norm_images_decides_a_result_and_needs_does_not(cards: Cards) -> None:
    plain, parts = read_card(cards("wrn-10-1")), read_card(cards("wrn-10-1", norm_images=25))
    assert plain.fingerprint != parts.fingerprint
    needy = cards("wrn-10-1")
    needy.write_text(needy.read_text() + '\n[needs]\ngpus = 2\nmemory = "16G"\n')
    assert read_card(needy).needs.gpus == 2
    assert read_card(needy).fingerprint == plain.fingerprint


@pytest.mark.parametrize("results", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_cards_without_the_new_keys_keep_the_fingerprints_of_what_was_published(results: Path) -> None:
    with results.open(encoding="utf-8") as lines:
        published = json.loads(next(lines))["record"]
    assert read_card(ROOT / "tasks" / f"{published['task']}.toml").fingerprint == published["task_fingerprint"]


# Whole runs


@dataclass
class Watched:
    """What a pool said."""

    events: list[dict[str, Any]] = field(default_factory=list)
    told_to_stop: bool = False

    @property
    def ends(self) -> list[str]:
        return [event["state"] for event in self.events if event["state"] not in ("started", "running")]


class WatchedPool(Pool):
    """A pool that remembers every process it has started."""

    started: tuple[Any, ...] = ()

    def _start(self, number: int) -> None:
        super()._start(number)
        worker = self._workers[-1]
        self.started = (*self.started, *worker.processes, worker.certifier)


def do(specs: list[RunSpec], root: Path, *, workers: int = 1, processes: int = 2, seconds: float = 0) -> Watched:
    """Do runs in a pool that may take a minute, and see that no process is left over."""
    watched = Watched()
    options = Options(processes=processes, checkpoint_seconds=seconds)
    pool = WatchedPool(specs, root, workers, options, watched.events.append)
    too_long = threading.Timer(60, lambda: [process.kill() for process in pool.started])
    too_long.start()
    pool.work()
    assert too_long.is_alive(), "the pool hung"
    too_long.cancel()
    until = time.monotonic() + 5
    while any(process.exitcode is None for process in pool.started) and time.monotonic() < until:
        time.sleep(0.05)
    assert [process for process in pool.started if process.exitcode is None] == []
    watched.told_to_stop = pool.told_to_stop
    return watched


def plan(card: Path, method: str, *, budget: str = "1", seeds: tuple[int, ...] = (0,), **knobs: Any) -> list[RunSpec]:
    """Runs of a method, which may be a plugin beside the card."""
    plugin = card.with_name(f"{method}.py")
    registry = Registry((str(plugin),) if plugin.exists() else ())
    entry = Entry(label=method, method=method, set=knobs)
    return plan_entry(str(card), entry, registry, budgets=[budget], seeds=seeds)


def record(root: Path, spec: RunSpec) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RunDirectory.of(root, spec).result_file.read_text(encoding="utf-8"))
    return content


def outcome(root: Path, spec: RunSpec) -> tuple[object, ...]:
    """What must not differ by a bit."""
    directory = RunDirectory.of(root, spec)
    rows = [(row["epoch"], row["step"], row["loss"], row["lr"]) for row in directory.epochs()]
    return record(root, spec)["metrics"], rows, directory.model_file.read_bytes(), directory.correct_file.read_bytes()


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes_what_one_process_trains(cards: Cards, tmp_path: Path) -> None:
    card = cards("transformer", batch_size="47", optimizer='{ name = "sgd", lr = 0.05, momentum = 0.9 }')
    words = [str(card), "--method", "dense", "--budget", "1", "--seeds", "0", "--device", "cpu"]
    words += ["--gpus-per-run", "2", "--workers", "1", "--runs", str(tmp_path / "two")]
    done = CliRunner().invoke(run, words)
    assert done.exit_code == 0, done.output
    (spec,) = plan(card, "dense")
    assert do([spec], tmp_path / "one", processes=1).ends == ["done"]
    one, two = (load_file(RunDirectory.of(tmp_path / name, spec).model_file) for name in ("one", "two"))
    assert all(torch.allclose(two[key], value, rtol=0, atol=1e-5) for key, value in one.items())
    said = record(tmp_path / "two", spec)
    assert said["fingerprint"] == record(tmp_path / "one", spec)["fingerprint"]
    assert [record(tmp_path / name, spec)["provenance"]["processes"] for name in ("one", "two")] == [1, 2]
    assert said["provenance"]["images_a_norm_sees"] == 47
    assert said["certificate"]["passed"]


MORTAL = """
import os, signal
from pathlib import Path
import torch.distributed as dist
from torch.nn import functional
from npasbench.api import *
from npasbench.baselines.dense import Dense

class Mortal(Dense):
    # Draws random numbers of each process's own, and sends itself a signal at a step.
    def losses(self, network, batch, criterion):
        inputs = functional.dropout(batch.inputs, 0.2)
        yield from super().losses(network, Batch(inputs, batch.labels, batch.indices), criterion)
    def after_step(self, network, progress):
        rank = dist.get_rank() if dist.is_initialized() else 0
        for point in sorted(Path(__file__).parent.glob(f"kill-{rank}-{progress.step}-*")):
            try:
                point.rename(point.with_name("taken-" + point.name))
            except FileNotFoundError:
                return
            os.kill(os.getpid(), getattr(signal, point.name.split("-")[3]))
"""
Mortals = Callable[..., list[RunSpec]]


@pytest.fixture
def mortal(cards: Cards, tmp_path: Path) -> Mortals:
    """Plans runs of 9 steps in which a process sends itself a signal at each point (rank, step, signal)."""
    (tmp_path / "mortal.py").write_text(MORTAL)
    card = cards("wrn-10-1", norm_images=25)

    def make(*points: tuple[int, int, str], seeds: tuple[int, ...] = (0,)) -> list[RunSpec]:
        for rank, step, name in points:
            (tmp_path / f"kill-{rank}-{step}-{name}").touch()
        return plan(card, "mortal", seeds=seeds)

    return make


@pytest.fixture
def undisturbed(mortal: Mortals, tmp_path: Path) -> tuple[object, ...]:
    (spec,) = mortal()
    assert do([spec], tmp_path / "whole").ends == ["done"]
    return outcome(tmp_path / "whole", spec)


@pytest.mark.slow
def test_a_run_of_two_processes_that_is_stopped_goes_on_to_the_same_bits_and_says_what_it_was(
    mortal: Mortals, undisturbed: tuple[object, ...], tmp_path: Path
) -> None:
    (spec,) = mortal((0, 4, "SIGTERM"))
    stopped = do([spec], tmp_path / "runs", seconds=100)
    assert stopped.ends == ["interrupted"]
    assert stopped.told_to_stop
    directory = RunDirectory.of(tmp_path / "runs", spec)
    assert directory.state() == "interrupted"
    assert not directory.lease_file.exists()
    assert do([spec], tmp_path / "runs").ends == ["done"]
    assert outcome(tmp_path / "runs", spec) == undisturbed
    said = record(tmp_path / "runs", spec)
    assert said["provenance"] | {"processes": 2, "images_a_norm_sees": 25, "restarts": 1} == said["provenance"]
    assert said["certificate"]["passed"]
    assert "goes on from step 4" in directory.log_file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_a_team_that_is_killed_is_replaced_and_the_run_ends_with_the_same_bits(
    rank: int, mortal: Mortals, undisturbed: tuple[object, ...], tmp_path: Path
) -> None:
    (spec,) = mortal((rank, 5, "SIGKILL"))
    watched = do([spec], tmp_path / "runs")
    assert watched.ends == ["interrupted", "done"]
    (why,) = [event["reason"] for event in watched.events if event["state"] == "interrupted"]
    assert why == "the worker died (signal 9); another goes on"
    assert outcome(tmp_path / "runs", spec) == undisturbed
    assert not RunDirectory.of(tmp_path / "runs", spec).failure_file.exists()


@pytest.mark.slow
def test_a_run_that_kills_a_process_of_its_team_twice_has_failed_and_the_next_is_done(
    mortal: Mortals, cards: Cards, tmp_path: Path
) -> None:
    (spec,) = mortal((1, 3, "SIGKILL"), (1, 5, "SIGKILL"))
    (other,) = plan(cards("wrn-10-1", norm_images=25), "dense")
    assert do([spec, other], tmp_path / "runs").ends == ["interrupted", "failed", "done"]
    assert "killed 2 times in this run (signal 9)" in RunDirectory.of(tmp_path / "runs", spec).failure()["error"]


@pytest.mark.slow
def test_a_team_one_of_whose_processes_is_told_to_stop_writes_down_where_it_stands_and_starts_again(
    mortal: Mortals, undisturbed: tuple[object, ...], tmp_path: Path
) -> None:
    (spec,) = mortal((1, 4, "SIGTERM"))
    assert do([spec], tmp_path / "runs", seconds=100).ends == ["interrupted", "done"]
    assert outcome(tmp_path / "runs", spec) == undisturbed


@pytest.mark.slow
def test_a_worker_told_to_stop_writes_a_checkpoint_and_leaves_and_the_others_go_on(
    mortal: Mortals, tmp_path: Path
) -> None:
    specs = mortal((0, 4, "SIGTERM"), seeds=(0, 1, 2))
    watched = do(specs, tmp_path / "runs", workers=2, processes=1, seconds=100)
    assert watched.told_to_stop
    assert sorted(watched.ends) == ["done", "done", "interrupted"]
    directories = [RunDirectory.of(tmp_path / "runs", spec) for spec in specs]
    (left,) = [spec for spec, one in zip(specs, directories, strict=True) if one.state() == "interrupted"]
    checkpoint = torch.load(RunDirectory.of(tmp_path / "runs", left).checkpoint_file, weights_only=True)
    assert checkpoint["training"]["step"] == 4
    assert do(specs, tmp_path / "runs", processes=1).ends == ["done"]
    assert do([left], tmp_path / "whole", processes=1).ends == ["done"]
    assert outcome(tmp_path / "runs", left) == outcome(tmp_path / "whole", left)


RAISES_IN_ONE = """
import torch.distributed as dist
from npasbench.baselines.dense import Dense
class Raises(Dense):
    def after_step(self, network, progress):
        if progress.step == 2 and dist.get_rank() == RANK:
            raise ValueError("a bug of this process")
"""
DRIFTS = """
import torch
from npasbench.baselines.dense import Dense
class Drifts(Dense):
    def after_step(self, network, progress):
        with torch.no_grad():
            next(network.parameters()).add_(0.01 * torch.rand(()))
"""
SEARCHER = """
from npasbench.api import *
from npasbench.baselines.dense import Dense
class Searcher(Dense):
    # A search whose network draws its initial weights from torch's global generator as it comes.
    def search(self, problem, context):
        network = context.train("look", problem.create(), epochs=2)
        return Findings({"sum": float(sum(p.detach().double().sum() for p in network.parameters()))})
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_raised_in_one_process_is_the_reason_and_the_next_run_is_done(
    rank: int, cards: Cards, tmp_path: Path
) -> None:
    (tmp_path / "raises.py").write_text(RAISES_IN_ONE.replace("RANK", str(rank)))
    card = cards("wrn-10-1", norm_images=25)
    specs = [*plan(card, "raises"), *plan(card, "dense")]
    assert do(specs, tmp_path / "runs").ends == ["failed", "done"]
    directory = RunDirectory.of(tmp_path / "runs", specs[0])
    assert directory.failure()["error"] == (
        "Method 'raises' raised ValueError: a bug of this process in raises.py:7 (after_step)."
    )
    assert not directory.lease_file.exists()


WAITS = (
    RAISES_IN_ONE.replace("RANK", "1")
    + """
        elif progress.step == 2:
            import time
            time.sleep(100)  # as a GPU waits for another that will never answer
"""
)


@pytest.mark.slow
def test_a_first_process_that_waits_in_vain_is_ended_and_the_reason_of_the_other_is_kept(
    cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_PATIENCE_WITH_A_TEAM", 0.5)
    (tmp_path / "raises.py").write_text(WAITS)
    card = cards("wrn-10-1", norm_images=25)
    specs = [*plan(card, "raises"), *plan(card, "dense")]
    assert do(specs, tmp_path / "runs").ends == ["failed", "done"]
    assert "a bug of this process" in RunDirectory.of(tmp_path / "runs", specs[0]).failure()["error"]


@pytest.mark.slow
def test_weights_that_drift_apart_are_found_and_named(cards: Cards, tmp_path: Path) -> None:
    (tmp_path / "drifts.py").write_text(DRIFTS)
    (spec,) = plan(cards("wrn-10-1", norm_images=25), "drifts")
    assert do([spec], tmp_path / "runs").ends == ["failed"]
    directory = RunDirectory.of(tmp_path / "runs", spec)
    assert "The weights of the 2 processes of this run have drifted apart" in directory.failure()["error"]
    assert "a random number of its own; run it on one GPU" in directory.failure()["error"]
    assert directory.epochs() == []


@pytest.mark.slow
def test_a_norm_without_norm_images_fails_its_run_on_two_processes_with_the_sentence(
    cards: Cards, tmp_path: Path
) -> None:
    (spec,) = plan(cards("wrn-10-1"), "dense")
    assert do([spec], tmp_path / "runs").ends == ["failed"]
    assert "Set norm_images = 25" in RunDirectory.of(tmp_path / "runs", spec).failure()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "budget", "knobs"),
    [
        ("superweight", "1", {"search_epochs": 2}),
        ("ssn", "0.5", {"groups": "learned", "search_epochs": 2, "search_milestones": [1]}),
        ("magnitude", "0.25", {}),
        ("searcher", "1", {}),
    ],
)
def test_methods_that_search_or_learn_a_structure_take_two_processes(
    method: str, budget: str, knobs: dict[str, Any], cards: Cards, tmp_path: Path
) -> None:
    if method == "searcher":
        (tmp_path / "searcher.py").write_text(SEARCHER)
    (spec,) = plan(cards("wrn-10-1", norm_images=25), method, budget=budget, **knobs)
    for name, processes in (("one", 1), ("two", 2)):
        watched = do([spec], tmp_path / name, processes=processes, seconds=100)
        assert watched.ends == ["done"], RunDirectory.of(tmp_path / name, spec).failure()
    one, two = (record(tmp_path / name, spec) for name in ("one", "two"))
    assert two["certificate"]["passed"]
    assert two["parameters"] == one["parameters"]
    assert two["metrics"]["nll"] == pytest.approx(one["metrics"]["nll"], rel=0.05)
    if method != "magnitude":
        assert two["costs"]["search_epochs"] == one["costs"]["search_epochs"] > 0
        facts = [_findings(tmp_path / name, spec)["facts"] for name in ("one", "two")]
        assert facts[1].keys() == facts[0].keys()


def _findings(root: Path, spec: RunSpec) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(RunDirectory.of(root, spec).findings_file, weights_only=True)
    return content
