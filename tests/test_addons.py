"""Add-ons: written and read, around any method, in fingerprints and records; distillation and pruning of what is shared."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import npasbench
from npasbench import building
from npasbench.added import Added, read_addon
from npasbench.addon import AddOn, around, bare, hang, hung, joined, parted
from npasbench.api import Batch, Budget, Findings, Method, Problem, Progress
from npasbench.baselines.distill import Distill, Followed, _Teacher
from npasbench.baselines.grasp import Tempered
from npasbench.baselines.mimo import Mimo, MimoNetwork
from npasbench.baselines.prune_after import PruneAfter, _tempered
from npasbench.baselines.roast import Roast
from npasbench.baselines.template_bank import TemplateBank
from npasbench.brief_training import BriefSearch, Quiet
from npasbench.card import Entry, read_suite
from npasbench.cli import npasbench as cli
from npasbench.conformance import check_method
from npasbench.data import load
from npasbench.data.batches import Batches
from npasbench.errors import BudgetTooSmall, LayerCollapse, MethodError, PluginError, RunError, UsageError
from npasbench.leaderboard.grouping import boards
from npasbench.leaderboard.store import collect
from npasbench.measuring.count import count
from npasbench.measuring.model_file import read_model, write_model
from npasbench.networks import architecture
from npasbench.networks.members import Members
from npasbench.plan import RunSpec, plan_entry, plan_suite
from npasbench.problem import Architecture
from npasbench.pruning import scores
from npasbench.pruning.bank import PrunedBank
from npasbench.registry import Registry
from npasbench.running import record as records
from npasbench.running.certify import certify, load_trained
from npasbench.running.findings import read_findings
from npasbench.running.record_checks import check_record
from npasbench.running.repeating import Here, spec_from
from npasbench.running.rundir import RunDirectory
from npasbench.running.worker import Options, Ways, work
from npasbench.sharing.network import SharedNetwork
from npasbench.training.loop import Training

TASK = "digits15-wrn-10-1"
CPU = torch.device("cpu")
PLUGIN = '''
from npasbench.api import AddOn, Knobs

class LoudKnobs(Knobs):
    gain: float = 2.0

class Loud(AddOn):
    """Multiplies every loss."""
    knobs = LoudKnobs
    version = 3

    def losses(self, network, batch, criterion):
        for loss in self.inner.losses(network, batch, criterion):
            yield self.settings.gain * loss
'''


def problem(budget: int, accounting: str = "total", members: Sequence[str] = ("wrn-10-1",)) -> Problem:
    architectures = tuple(architecture(name, classes=10, input_shape=(1, 8, 8)) for name in members)
    dense = sum(count(one.create()).total for one in architectures)
    return Problem(architectures, Budget(str(budget), budget, dense, accounting), 10, (1, 8, 8))  # type: ignore[arg-type]


def assembled(method: str, *addons: str, **knobs: Any) -> Method:
    return Registry().resolve(method, knobs, addons)[0]


def brief(method: Method, seed: int = 0, epochs: int = 1) -> Callable[[nn.Module], Training]:
    card = Registry().card(TASK)
    recipe = card.recipe.model_copy(update={"epochs": epochs})
    data = load(card.data, seed=seed)
    return lambda network: Training(
        method, network, recipe, Batches(data, card.data, recipe.batch_size, seed, CPU), CPU
    )


def found(method: Method, given: Problem, seed: int = 0) -> Findings:
    return method.search(given, BriefSearch(seed, brief(method, seed))) if method.needs_search() else Findings()


def built(method: Method, given: Problem, seed: int = 0) -> nn.Module:
    return building.audited(method, given, found(method, given, seed), seed)


def _words(method: str, *addons: str) -> list[str]:
    return ["--method", method, *(word for addon in addons for word in ("--with", addon))]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


@pytest.fixture
def plan(small_card: Callable[..., Path]) -> Callable[..., RunSpec]:
    def make(method: str, *addons: str, budget: str = "0.1", seed: int = 0, plugins: Sequence[str] = ()) -> RunSpec:
        entry = Entry.model_validate({"label": "row", "method": method, "with": addons})
        return plan_entry(str(small_card(2)), entry, Registry(plugins), budgets=[budget], seeds=[seed])[0]

    return make


@pytest.fixture
def loud(tmp_path: Path) -> str:
    path = tmp_path / "loud.py"
    path.write_text(PLUGIN)
    return str(path)


def do(
    spec: RunSpec, root: Path, should_stop: Callable[[], bool] = lambda: False, **options: Any
) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    ways = Ways(events.append, should_stop, lambda directory: certify(directory, CPU))
    work([spec], root, Options(**options), ways)
    return [event for event in events if event["state"] not in ("started", "running")]


# As it is written


@pytest.mark.parametrize(
    ("text", "name", "knobs"),
    [
        ("distill", "distill", {}),
        ("distill:teacher=dense,weight=0.5", "distill", {"teacher": "dense", "weight": 0.5}),
        ('a:x="1,2",y=[1, 2],z={ k = [3, "]"] }', "a", {"x": "1,2", "y": [1, 2], "z": {"k": [3, "]"]}}),
        ("a: x = 1 , y=true", "a", {"x": 1, "y": True}),
    ],
)
def test_an_addon_is_read_with_its_knobs(text: str, name: str, knobs: dict[str, Any]) -> None:
    assert read_addon(text) == (name, knobs)


@pytest.mark.parametrize("text", ["", ":", "a:", ":x=1", "a:x", "a:x=1,", "a:=1", "a:x=1,x=2", "x=1"])
def test_what_is_no_addon_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=f"'--with {text}'"):
        read_addon(text)


values = st.one_of(
    st.booleans(), st.integers(-5, 5), st.floats(-1e3, 1e3), st.text(st.characters(codec="ascii", min_codepoint=32)),
    st.lists(st.integers(0, 9), max_size=3), st.lists(st.text("a,]\"'", max_size=4), max_size=2),
)  # fmt: skip


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), values, max_size=4))
def test_an_addons_word_is_read_as_what_it_was(knobs: dict[str, Any]) -> None:
    assert read_addon(Added(name="a", version=1, knobs=knobs).word) == ("a", knobs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--method roast --with distil", "Unknown add-on 'distil'. Did you mean 'distill'?"),
        ("--method roast --with distill:temperatur=2", "Unknown knob of distill 'temperatur'. Did you mean 'temperat"),
        ("--method roast --with distill:teacher=dens", "Unknown method 'dens'. Did you mean 'dense'?"),
        ("--method roast --with distill:weight=2", "Knob 'weight' of distill was given 2: "),
        ("--method roast --with roast", "'roast' is a method, not an add-on"),
        ("--method distill", "'distill' is an add-on, not a method."),
        ("--method roast --with distill --with distill", "The add-on 'distill' is given twice."),
        ("--method roast --with prune-after:begin=0.9", "pruning cannot begin at 0.9 and end at 0.8"),
    ],
)
def test_a_misspelt_addon_or_knob_is_told_the_nearest(words: str, said: str) -> None:
    error = invoke("plan", TASK, *words.split()).exception
    assert isinstance(error, UsageError)
    assert said in str(error)


# In a plan, a command and a fingerprint


def test_a_run_without_addons_keeps_its_fingerprint_and_its_spec(plan: Callable[..., RunSpec]) -> None:
    spec = plan("roast")
    assert "addons" not in spec.as_json()
    assert RunSpec.from_json(spec.as_json()) == spec


def test_addons_their_knobs_versions_order_and_teachers_decide_the_fingerprint(plan: Callable[..., RunSpec]) -> None:
    specs = [
        plan("roast", *addons)
        for addons in [(), ("distill",), ("distill:weight=0.5",), ("prune-after",), ("distill", "prune-after")]
    ]
    specs.append(plan("roast", "prune-after", "distill"))
    (one,) = specs[1].addons
    for change in ({"version": 2}, {"uses": {"dense": 2}}):
        specs.append(specs[1].model_copy(update={"addons": (one.model_copy(update=change),)}))
    assert len({RunSpec.from_json(spec.as_json()).fingerprint for spec in specs}) == len(specs)


def test_the_command_of_a_run_repeats_its_addons(plan: Callable[..., RunSpec]) -> None:
    import shlex

    spec = plan("roast", "prune-after:rule=snip", "distill:temperature=2")
    words = shlex.split(spec.command())
    given = [words[place + 1] for place, word in enumerate(words) if word == "--with"]
    assert plan("roast", *given).fingerprint == spec.fingerprint
    assert Registry().resolve("roast", {}, given)[1] == spec.addons


def test_a_label_of_its_own_tells_a_run_with_addons_from_one_without() -> None:
    done = invoke("plan", TASK, "--json", *_words("roast", "prune-after", "distill:weight=0.5"))
    cells = json.loads(done.output)["cells"]
    assert {cell["label"] for cell in cells} == {"roast-prune-after-distill-weight-0.5"}
    assert [word.split(":")[0] for word in cells[0]["with"]] == ["prune-after", "distill"]


def test_plan_says_what_goes_with_a_method() -> None:
    done = invoke("plan", TASK, "--label", "x", *_words("roast", "distill"))
    assert "roast with distill" in done.output


def test_a_suite_gives_its_entries_addons(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(
        f'schema = 1\nname = "both"\ntitle = "t"\ntasks = ["{TASK}"]\nbudgets = [0.1]\nseeds = [0]\n'
        '[[entry]]\nlabel = "plain"\nmethod = "roast"\n'
        '[[entry]]\nlabel = "taught"\nmethod = "roast"\nwith = ["distill:weight=0.5"]\n'
    )
    plain, taught = plan_suite(read_suite(path), Registry())
    assert plain.addons == ()
    assert [(one.name, one.knobs["weight"]) for one in taught.addons] == [("distill", 0.5)]


def test_a_suite_is_given_no_addons_on_the_command_line() -> None:
    error = invoke("plan", "quickstart", "--with", "distill").exception
    assert isinstance(error, UsageError)
    assert "--with belong to a task" in str(error)


def test_addons_are_listed_and_shown() -> None:
    assert {"distill", "prune-after"} <= set(json.loads(invoke("list", "addons", "--json").output)["addons"])
    shown = json.loads(invoke("show", "distill", "--json").output)
    assert (shown["add-on"], shown["knobs"]["temperature"]["default"]) == ("distill", 4.0)
    assert "Hinton" in shown["cite"]


# Of one's own


def test_a_plugin_may_bring_an_addon(plan: Callable[..., RunSpec], loud: str, tmp_path: Path) -> None:
    spec = plan("roast", "loud:gain=3", plugins=[loud])
    assert [(one.name, one.version, one.knobs) for one in spec.addons] == [("loud", 3, {"gain": 3.0})]
    assert f"--plugin {loud}" in spec.command()
    (event,) = do(spec, tmp_path / "runs")
    assert event["state"] == "done"
    told = records.read(RunDirectory.of(tmp_path / "runs", spec).result_file).provenance["addons"]["loud"]
    assert (told["summary"], told["origin"], len(told["source"])) == ("Multiplies every loss.", loud, 64)


def test_an_addon_may_not_have_the_name_of_a_method(tmp_path: Path) -> None:
    path = tmp_path / "taken.py"
    path.write_text("from npasbench.api import AddOn\nclass Roast(AddOn):\n    pass\n")
    with pytest.raises(
        UsageError, match="names its class Roast 'roast', but that is the name of a method of npasbench"
    ):
        Registry([str(path)]).addon("roast")


def test_an_entry_point_that_is_no_addon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    source = dataclasses.replace(registry.addons["distill"], entry_point=registry.sources["roast"].entry_point)
    monkeypatch.setitem(registry.addons, "distill", source)
    with pytest.raises(PluginError, match=r"is .*Roast.*, not a subclass of npasbench\.api\.AddOn"):
        registry.addon("distill")


def test_an_error_in_a_method_is_placed_in_its_file_whatever_goes_with_it(
    plan: Callable[..., RunSpec], tmp_path: Path
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(
        "from npasbench.baselines.roast import Roast\nclass Broken(Roast):\n"
        '    def after_step(self, network, progress):\n        raise ValueError("a bug")\n'
    )
    spec = plan("broken", "prune-after", plugins=[str(path)])
    (event,) = do(spec, tmp_path / "runs")
    assert event["reason"] == "Method 'broken' raised ValueError: a bug in broken.py:4 (after_step)."


def test_the_conformance_kit_passes_with_addons() -> None:
    verdicts = check_method("roast", addons=("prune-after:rule=snip", "distill"))
    assert [(verdict.name, verdict.detail) for verdict in verdicts if not verdict.passed] == []


# Around a method


class Noting(TemplateBank):
    """Notes which of its hooks are called on which networks."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, nn.Module]] = []

    def needs_search(self) -> bool:
        return True

    def search(self, given: Problem, context: Any) -> Findings:
        self.own = context.train("own", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        return Findings({"mine": 1}, {"here": torch.ones(2)})

    def losses(self, network: nn.Module, batch: Batch, criterion: Any) -> Iterator[Tensor]:
        self.called.append(("losses", network))
        yield from super().losses(network, batch, criterion)

    def after_step(self, network: nn.Module, progress: Any) -> None:
        self.called.append(("after_step", network))


def test_a_teacher_is_trained_without_the_hooks_of_the_method_and_a_search_of_its_own_without_the_addons() -> None:
    inner = Noting()
    outer = Distill(inner, None, lambda name: assembled(name))
    findings = found(outer, problem(60_000))
    assert {id(network) for _, network in inner.called} == {id(inner.own)}
    assert parted(findings)[1].facts == {"mine": 1}
    assert torch.equal(parted(findings)[1].tensors["here"], torch.ones(2))


def test_every_hook_of_the_contract_is_passed_on() -> None:
    own = {"title", "settings", "knobs", "cite", "version", "name"}
    hooks = {name for name in vars(Method) if not name.startswith("_")} - own
    assert hooks <= set(vars(AddOn))


def test_addons_stack_in_the_order_given() -> None:
    method = assembled("roast", "prune-after", "distill")
    assert [type(one) for one in around(method)] == [PruneAfter, Distill]
    assert isinstance(method, Distill)
    assert bare(method).name == "roast"
    assert method.title == "roast with prune-after and distill"


def test_findings_of_several_addons_are_told_apart() -> None:
    innermost = Findings({"a": 1}, {"t": torch.zeros(1)})
    middle = joined(Findings({"a": 2}, {"t": torch.ones(1)}), innermost)
    own, rest = parted(joined(Findings({}, {"own.t": torch.ones(3)}), middle))
    assert own.tensors["own.t"].shape == (3,)
    assert parted(rest)[0].facts == {"a": 2}
    assert parted(rest)[1].facts == {"a": 1}
    assert parted(rest)[1].tensors["t"] == 0


# Distillation


class Fixed(nn.Module):
    """Logits that are given by the first pixel, whatever else is there: ``[classes]`` or ``[members, classes]`` for each."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.table[inputs.flatten(1)[:, 0].long()]
        return logits if logits.dim() == 2 else logits.transpose(0, 1)


def taught(inner: Method, student: nn.Module, teacher: nn.Module, **knobs: Any) -> Distill:
    outer = Distill(inner, Distill.knobs(**knobs), lambda name: assembled(name))
    hang(student, outer.name, _Teacher(teacher.eval()))
    return outer


def batch_of(examples: int = 6, classes: int = 3) -> Batch:
    inputs = torch.arange(examples).float().view(-1, 1, 1, 1)
    return Batch(inputs, torch.arange(examples) % classes, torch.arange(examples))


def by_hand(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weight: float) -> Tensor:
    """The same from probabilities, example by example; the teacher's are ``[batch, classes]``, at the temperature."""
    total = torch.zeros(())
    for one, soft, label in zip(student, teacher, labels, strict=True):
        own = torch.softmax(one / temperature, 0)
        divergence = sum(p * (p.log() - q.log()) for p, q in zip(soft, own, strict=True))
        total = total + (1 - weight) * -torch.log_softmax(one, 0)[label] + weight * temperature**2 * divergence
    return total / len(labels)


def test_the_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher, batch = Fixed(torch.randn(6, 3)), Fixed(torch.randn(6, 3)), batch_of()
    method = taught(assembled("dense"), student, teacher, temperature=3.0, weight=0.7)
    (loss,) = method.losses(student, batch, F.cross_entropy)
    expected = by_hand(student.table, torch.softmax(teacher.table / 3, 1).detach(), batch.labels, 3.0, 0.7)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.table.grad is not None
    assert teacher.table.grad is None


def test_each_member_learns_from_the_mean_of_the_teachers_members() -> None:
    torch.manual_seed(0)
    student = Members([Fixed(torch.randn(6, 3)), Fixed(torch.randn(6, 3))])
    teacher, batch = Fixed(torch.randn(6, 4, 3)), batch_of()
    method = taught(assembled("dense"), student, teacher, temperature=2.0, weight=1.0)
    losses = list(method.losses(student, batch, F.cross_entropy))
    soft = torch.softmax(teacher.table / 2, -1).mean(1).detach()
    for loss, member in zip(losses, student.members, strict=True):
        torch.testing.assert_close(loss, by_hand(member.table, soft, batch.labels, 2.0, 1.0))


def test_mimos_predictions_learn_what_the_teacher_says_of_their_own_examples() -> None:
    torch.manual_seed(0)
    mimo = Mimo(Mimo.knobs(members=2, repeat=0.3, batch_repetition=2))
    student, teacher, batch = MimoNetwork(Sides(2, 3), 2), Fixed(torch.randn(6, 3)), batch_of()
    method = taught(mimo, student, teacher, temperature=2.0, weight=0.5)
    torch.manual_seed(1)
    (loss,) = method.losses(student, batch, F.cross_entropy)
    torch.manual_seed(1)
    orders = mimo.orders(6, 2)
    logits = student.predict([batch.inputs[order] for order in orders])
    soft = torch.softmax(teacher.table / 2, -1).detach()
    expected = [
        by_hand(one, soft[order], batch.labels[order], 2.0, 0.5) for one, order in zip(logits, orders, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).sum())


class Sides(nn.Module):
    """Each channel's value times a vector: logits of several members side by side."""

    def __init__(self, members: int, classes: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(members, classes))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.flatten(1)[:, :, None] * self.vectors).flatten(1)  # [batch, members * classes]


class Mixing(Method):
    """Its losses compute labels, so that no example belongs to them."""

    def build(self, given: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        raise NotImplementedError

    def losses(self, network: nn.Module, batch: Batch, criterion: Any) -> Iterator[Tensor]:
        yield criterion(network(batch.inputs), (batch.labels + batch.labels.flip(0)) // 2)


def test_a_method_that_computes_its_labels_is_told_that_its_examples_cannot_be_followed() -> None:
    student, teacher = Fixed(torch.randn(6, 3)), Fixed(torch.randn(6, 3))
    with pytest.raises(MethodError, match="distill cannot tell which examples the logits of mixing are of"):
        list(taught(Mixing(), student, teacher).losses(student, batch_of(), F.cross_entropy))


class Writing(Mixing):
    """Its losses write into labels: a copy's first ones, or through a view of the batch's own."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write

    def losses(self, network: nn.Module, batch: Batch, criterion: Any) -> Iterator[Tensor]:
        yield criterion(network(batch.inputs), self.write(batch.labels))


def _first_zero(labels: Tensor) -> Tensor:
    copied = labels.clone()
    copied[:3] = 0
    return copied


def _by_a_view(labels: Tensor) -> Tensor:
    labels[:3].fill_(0)
    return labels


def _out(labels: Tensor) -> Tensor:
    return torch.add(labels.flip(0).as_subclass(Tensor), 0, out=labels)


def _in_place_then_moved(labels: Tensor) -> Tensor:
    copied = labels.clone()
    copied.clamp_(max=1)
    return copied.flip(0)


@pytest.mark.parametrize("write", [_first_zero, _by_a_view, _out, _in_place_then_moved])
def test_a_method_that_writes_into_labels_is_told_that_its_examples_cannot_be_followed(write: Any) -> None:
    student, teacher = Fixed(torch.randn(6, 3)), Fixed(torch.randn(6, 3))
    with pytest.raises(MethodError, match="labels that were computed or written into"):
        list(taught(Writing(write), student, teacher).losses(student, batch_of(), F.cross_entropy))


def test_labels_are_followed_wherever_they_are_moved_and_are_plain_where_they_are_computed_with() -> None:
    labels = Followed.of(torch.tensor([5, 6, 7, 8]))
    order = torch.tensor([3, 1, 1])
    moved = {
        "index": labels[order], "mask": labels[labels > 6], "repeat": labels.repeat(2), "flip": labels.flip(0),
        "cat": torch.cat([labels[1:], labels[:1]]), "part": labels.tensor_split(2)[1], "to": labels.to("cpu"),
        "interleave": labels.repeat_interleave(2), "select": torch.index_select(labels, 0, order), "clone": labels.clone(),
    }  # fmt: skip
    for how, one in moved.items():
        assert isinstance(one, Followed), how
        assert torch.equal(one.places + 5, one.as_subclass(Tensor)), how
    table, plain = torch.arange(20), torch.tensor([1])
    for computed in (labels + 0, table[labels], torch.cat([labels, plain]), F.one_hot(labels), labels.float()):
        assert type(computed) is Tensor


def test_a_teacher_is_in_no_count_no_state_no_copy_and_no_export() -> None:
    method, given = assembled("dense", "distill"), problem(77_562)
    network, plain = built(method, given), built(assembled("dense"), given)
    teacher = hung(network, "distill").network
    assert count(network).total == count(plain).total == method.final_count(network)
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in network.parameters()}
    assert hung(copy.deepcopy(network), "distill").network is teacher
    assert hung(npasbench.export(network), "distill") is None
    assert hung(network, "distill").network is teacher


def test_a_teacher_stays_as_it_is_while_its_student_trains() -> None:
    method = assembled("roast", "distill")
    network = built(method, problem(7_756))
    before = copy.deepcopy(hung(network, "distill").network.state_dict())
    brief(method)(network).run(Quiet())
    after = hung(network, "distill").network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_teacher_is_the_network_that_its_method_trains_by_itself(
    plan: Callable[..., RunSpec], tmp_path: Path
) -> None:
    alone, student = plan("dense", budget="1", seed=5), plan("roast", "distill", seed=5)
    for spec in (alone, student):
        assert do(spec, tmp_path)[0]["state"] == "done"
    directory = RunDirectory.of(tmp_path, student)
    _, dense, _ = load_trained(RunDirectory.of(tmp_path, alone), alone, CPU)
    network = building.build(
        building.method_of(student), building.problem_of(student), read_findings(directory.findings_file), student.seed
    )
    teacher = hung(network, "distill").network
    for name, parameter in dense.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(name)), name
    result = records.read(directory.result_file)
    assert result.certificate is not None
    assert result.certificate.passed
    assert result.costs["search_epochs"] == 2
    assert (result.costs["search_flops"] or 0) > 0


def test_a_teacher_of_another_method_keeps_its_search_and_structure() -> None:
    method = assembled("narrow", "distill:teacher=ssn-plus")
    (teacher,) = method.uses()
    given = problem(30_000)
    network = built(method, given)
    again = building.build(method, given, found(method, given), 0)
    inputs = load(Registry().card(TASK).data, seed=0).test_inputs[:8]
    assert isinstance(hung(network, "distill").network, SharedNetwork)
    assert teacher.name == "ssn-plus"
    assert torch.equal(hung(network, "distill").network(inputs), hung(again, "distill").network(inputs))


STAGED = """
import torch
from npasbench.api import Findings
from npasbench.baselines.dense import Dense

class Wide(Dense):
    width, stage = 8, "look"

    def search(self, problem, context):
        layers = (torch.nn.Linear(64, self.width), torch.nn.Linear(self.width, 10))
        trained = context.train(self.stage, torch.nn.Sequential(torch.nn.Flatten(), *layers), epochs=1)
        return Findings({}, {"seen": trained[1].weight.detach()})

class Narrower(Wide):
    width = 4

class Clashing(Wide):
    stage = "teacher"
"""


def test_a_teachers_search_has_stages_of_its_own(plan: Callable[..., RunSpec], tmp_path: Path) -> None:
    path = tmp_path / "staged.py"
    path.write_text(STAGED)
    for teacher, width in (("narrower", 4), ("wide", 8)):
        spec = plan("wide", f"distill:teacher={teacher}", budget="1", plugins=[str(path)])
        (event,) = do(spec, tmp_path / "runs")
        assert event["state"] == "done", event
        own, inner = parted(read_findings(RunDirectory.of(tmp_path / "runs", spec).findings_file))
        assert (own.tensors["found.seen"].shape, inner.tensors["seen"].shape) == ((width, 64), (8, 64))
        assert teacher != "wide" or not torch.equal(own.tensors["found.seen"], inner.tensors["seen"])
    (event,) = do(plan("clashing", "distill", budget="1", plugins=[str(path)]), tmp_path / "runs")
    assert "Two stages of one search are named 'teacher'" in event["reason"]


def test_a_teacher_that_has_no_business_here_skips_the_run() -> None:
    reason = assembled("roast", "distill:teacher=magnitude").skip(problem(7_756))
    assert reason == "magnitude cannot be its teacher: nothing to prune: the dense network fits"


def test_without_its_search_distillation_says_what_is_missing() -> None:
    method, given = assembled("roast", "distill"), problem(7_756)
    network = building.build(method, given, Findings(), 0)
    with pytest.raises(MethodError, match="roast with distill has no teacher"):
        brief(method)(network).run(Quiet())


# Pruning what is shared


RULES = ["magnitude", "random", "snip", "grasp", "synflow:10"]


def pruning(rule: str, **knobs: Any) -> str:
    name, _, rounds = rule.partition(":")
    more = {**({"rounds": rounds} if rounds else {}), **knobs}
    return f"prune-after:rule={name}" + "".join(f",{key}={value}" for key, value in more.items())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("inner", "budget", "accounting"),
    [("roast", 7_756, "total"), ("roast", 7_001, "bank"), ("superweight", 40_001, "total"), ("ssn", 90_000, "total")],
)
def test_a_pruned_bank_meets_the_budget_exactly(rule: str, inner: str, budget: int, accounting: str) -> None:
    method, given = assembled(inner, pruning(rule)), problem(budget, accounting)
    if rule == "grasp" and inner in ("ssn", "superweight"):
        with pytest.raises(LayerCollapse, match="grasp, which differentiates twice"):
            built(method, given)
        return
    network = built(method, given)
    brief(method, epochs=2)(network).run(Quiet())
    counted = count(network, masks=method.structure(network).masks)
    assert (counted.total if accounting == "total" else counted.bank_params) == budget
    assert method.final_count(network) == counted.total
    for name, mask in method.structure(network).masks.items():
        assert name.split(".")[-1 if name.endswith(("bank", "templates")) else -2] in ("bank", "templates")
        assert not bool((network.get_parameter(name)[~mask] != 0).any())


def test_the_bank_is_as_many_times_larger_as_is_asked_for_and_no_dense_count_limits_it() -> None:
    rest = 490
    for grow, size in ((1.5, 75_000), (2, 100_000), (4, 200_000)):
        method = assembled("hashed", pruning("magnitude", grow=grow))
        (mask,) = method.structure(built(method, problem(rest + 50_000))).masks.values()
        assert mask.numel() == size


@pytest.mark.parametrize(
    ("inner", "masked", "unmasked"),
    [
        ("template-bank", {"templates"}, {"coefficients"}),
        ("superweight", {"templates"}, {"coefficients"}),
        ("batch-ensemble", {"bank"}, {"scales"}),
        ("hypernetwork", {"hypernetwork"}, {"tile_embeddings", "hypernetwork"}),
    ],
)
def test_only_what_weights_are_made_from_is_masked(inner: str, masked: set[str], unmasked: set[str]) -> None:
    more = {"members": 2} if inner == "batch-ensemble" else {}
    method = assembled(inner, "prune-after", **more)
    network = built(method, problem(60_000))
    masks = method.structure(network).masks
    others = [n for n, _ in network.named_parameters() if n.startswith("generator.") and n not in masks]
    assert {name.split(".")[1] for name in masks} == masked
    assert {name.split(".")[1] for name in others} == unmasked
    assert not any("bias" in name for name in masks)


def test_of_a_bank_that_many_layers_read_snip_scores_what_all_of_them_say() -> None:
    method, given = assembled("naive", pruning("snip", grow=1.5), scope="all"), problem(10_490)
    (mask,) = method.structure(built(method, given)).masks.values()
    plain = building.build(assembled("naive", scope="all"), problem(15_490), Findings(), 0)
    (loss,) = BriefSearch(0, brief(assembled("dense"))).losses(plain, batches=1)
    (bank,) = [parameter for name, parameter in plain.named_parameters() if "bank" in name]
    (gradient,) = torch.autograd.grad(loss, [bank])
    score = (gradient * bank).abs().detach()
    assert (int(mask.sum()), len(mask)) == (10_000, 15_000)
    assert float(score[mask].min()) >= float(score[~mask].max())


def test_grasp_looks_at_logits_divided_by_its_temperature() -> None:
    method, given = assembled("naive", pruning("grasp", grow=1.5), scope="all"), problem(10_490)
    (mask,) = method.structure(built(method, given)).masks.values()
    plain = building.build(assembled("naive", scope="all"), problem(15_490), Findings(), 0)
    losses = BriefSearch(0, brief(assembled("dense"))).losses(Tempered(plain, 200), batches=1)
    (bank,) = [parameter for name, parameter in plain.named_parameters() if "bank" in name]
    score = scores.grasp({"bank": bank}, losses)["bank"]
    assert float(score[mask].min()) >= float(score[~mask].max())
    (other,) = method.structure(
        built(assembled("naive", pruning("grasp", grow=1.5, temperature=1), scope="all"), given)
    ).masks.values()
    assert not torch.equal(mask, other)


@pytest.mark.parametrize("order", [("prune-after", "distill"), ("distill", "prune-after")], ids="+".join)
def test_every_addon_sees_the_tempered_logits(order: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    student, teacher, batch = Fixed(torch.randn(6, 3)), Fixed(torch.randn(6, 3)), batch_of()
    method = assembled("roast", *order)
    hang(student, "distill", _Teacher(teacher.eval()))
    (loss,) = _tempered(method, 5.0).losses(student, batch, F.cross_entropy)
    hang(cold := Fixed(student.table.detach() / 5), "distill", _Teacher(teacher))
    (expected,) = method.losses(cold, batch, F.cross_entropy)
    torch.testing.assert_close(loss, expected)


def test_masks_come_back_with_the_structure_and_are_counted_beside_it(tmp_path: Path) -> None:
    method, given = assembled("roast", "prune-after"), problem(7_756)
    network = built(method, given)
    brief(method, epochs=2)(network).run(Quiet())
    written = write_model(tmp_path / "model.safetensors", method, network)
    again = building.build(method, given, Findings(), 0)
    assert written == 7_756 == read_model(tmp_path / "model.safetensors", method, again)
    inputs = load(Registry().card(TASK).data, seed=0).test_inputs[:8]
    assert torch.equal(network.eval()(inputs), again.eval()(inputs))
    masks = method.structure(network).masks
    bits = method.side_information_bits(network) - bare(method).side_information_bits(network)
    assert bits == sum(mask.numel() for mask in masks.values()) == 14_528


@pytest.mark.parametrize(
    ("inner", "knobs", "said"),
    [
        ("dense", {}, "dense generates no weights, so there is no bank to prune; use --method magnitude"),
        ("narrow", {}, "narrow generates no weights"),
        ("magnitude", {}, "magnitude prunes by itself; use it without prune-after"),
        ("lottery", {}, "lottery prunes by itself; use it without prune-after"),
        ("snip", {}, "snip prunes by itself; use it without prune-after"),
        ("grasp", {}, "grasp prunes by itself; use it without prune-after"),
        ("synflow", {}, "synflow prunes by itself; use it without prune-after"),
        ("rigl", {}, "rigl prunes by itself; use it without prune-after"),
        ("random-erk", {}, "random-erk prunes by itself; use it without prune-after"),
        ("pranc", {}, "pranc has nothing to prune but coefficients"),
    ],
)
def test_a_method_without_a_bank_is_refused_with_what_to_use_instead(
    inner: str, knobs: dict[str, Any], said: str
) -> None:
    method = assembled(inner, "prune-after", **knobs)
    budget = 77_562 if inner == "dense" else 40_000
    assert (method.skip(problem(budget)) or "").startswith(said)
    with pytest.raises(MethodError, match=said.split(";")[0]):
        building.build(method, problem(budget), Findings(), 0)


@pytest.mark.parametrize(
    ("inner", "budget", "said"),
    [("dense", 7_756, "dense generates no weights"), ("lottery", 300, "lottery prunes by itself")],
)
def test_a_method_that_is_not_built_at_the_budget_is_refused_for_what_it_is(inner: str, budget: int, said: str) -> None:
    assert (assembled(inner, "prune-after").skip(problem(budget)) or "").startswith(said)
    words = [
        inner,
        "--architecture",
        "wrn-10-1",
        "--input",
        "1,8,8",
        "--budget",
        str(budget / 77_562),
        "--with",
        "prune-after",
    ]
    error = invoke("inspect", *words).exception
    assert said in str(error)
    assert "grow" not in str(error)


def test_what_searches_and_is_not_built_without_its_findings_is_not_judged_before() -> None:
    assert assembled("superweight", "prune-after").skip(problem(40_000)) is None


def test_magnitude_leaves_what_the_cubic_schedule_says_by_hand() -> None:
    method = assembled("roast", "prune-after:begin=0,end=1,every=1")
    assert isinstance(method, PruneAfter)
    bank = PrunedBank(("bank",), 1000, 200)
    left = [method._left(bank, Progress(0, 1, step, 10)) for step in (5, 9, 10)]
    assert left == [1000 - 700, 1000 - 799, 200]  # 7/8 of 800 are gone at half, 0.999 of 800 one step before the end
    assert assembled("roast", "prune-after:every=7")._left(bank, Progress(0, 1, 3, 10)) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("begin", "end"), [(0, 0.01), (0.5, 0.5)])
def test_a_bank_meets_its_budget_however_short_the_pruning_is(begin: float, end: float) -> None:
    method, given = assembled("roast", f"prune-after:begin={begin},end={end}"), problem(7_756)
    network = built(method, given)
    brief(method, epochs=2)(network).run(Quiet())
    assert count(network, masks=method.structure(network).masks).total == 7_756


@pytest.mark.parametrize("rule", ["snip", "grasp"])
def test_as_many_batches_are_looked_at_as_the_knob_says(rule: str) -> None:
    masks = []
    for batches in (1, 2):
        method = assembled("roast", pruning(rule, batches=batches))
        masks += method.structure(built(method, problem(7_756))).masks.values()
    assert not torch.equal(*masks)


class Silent(nn.Module):
    """A linear layer behind which a norm's gain is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 40), nn.LayerNorm(40), nn.Linear(40, 10)
        self.beside = nn.Linear(64, 40)
        nn.init.zeros_(self.norm.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        logits: Tensor = self.head(self.beside(flat) + self.norm(self.first(flat)))
        return logits


@pytest.mark.parametrize("rule", ["snip", "grasp"])
def test_entries_behind_a_norms_gain_of_zero_are_scored_as_if_it_were_one(rule: str) -> None:
    network = Silent()
    dense = count(network).total
    given = Problem((Architecture.of(network),), Budget("x", dense // 2, dense), 10, (1, 8, 8))
    method = assembled("low-rank", pruning(rule, grow=1.2))
    made = built(method, given)
    (gain,) = [p for name, p in made.named_parameters() if name.endswith("norm.weight")]
    assert not bool(gain.any())
    assert method.final_count(made) <= dense // 2


class Restless(Roast):
    """Has a bank of another size after its first epoch."""

    def after_epoch(self, network: nn.Module, context: Any) -> None:
        network.generator.bank = nn.Parameter(network.generator.bank.detach().repeat(2, 1))


def test_a_bank_that_changes_while_it_trains_is_refused() -> None:
    method = PruneAfter(Restless())
    network = building.build(method, problem(7_756), Findings(), 0)
    with pytest.raises(MethodError, match=r"'generator\.bank' was pruned, and now it is gone or of another shape"):
        brief(method, epochs=2)(network).run(Quiet())


def test_a_method_that_gains_coefficients_while_it_trains_stays_within_the_budget() -> None:
    method = assembled("superweight", "prune-after", phase="coarse", unshare_epoch=1, unshare_threshold=1.0)
    network = built(method, problem(40_000))
    before = count(network).by_kind["coefficients"]
    brief(method, epochs=4)(network).run(Quiet())
    counted = count(network, masks=method.structure(network).masks)
    assert before < counted.by_kind["coefficients"]
    assert counted.total <= method.final_count(network) == 40_000


def test_a_budget_that_leaves_nothing_of_the_bank_names_the_smallest_that_does() -> None:
    method, given = assembled("roast", "prune-after"), problem(480)
    with pytest.raises(BudgetTooSmall, match="roast with prune-after needs at least") as refused:
        building.audited(method, given, Findings(), 0)
    smallest = refused.value.smallest or 0
    assert method.final_count(building.audited(method, problem(smallest), Findings(), 0)) <= smallest


@pytest.mark.parametrize(
    ("inner", "grow", "budget", "said"),
    [
        ("template-bank", 2, 500, "That is with grow = 2; a larger grow may need less."),
        ("hypernetwork", 4, 800, "That is with grow = 4; a smaller grow may need less."),
        (
            "superweight",
            1.2,
            40_000,
            "when with grow = 1.2 it may have 47,902 parameters; a larger grow may need less.",
        ),
    ],
)
def test_a_budget_that_is_too_small_names_grow(inner: str, grow: float, budget: int, said: str) -> None:
    with pytest.raises(BudgetTooSmall) as refused:
        built(assembled(inner, pruning("magnitude", grow=grow)), problem(budget))
    assert str(refused.value).endswith(said)


class Broken(Roast):
    """Has a mistake."""

    def build(self, given: Problem, findings: Findings, rng: torch.Generator) -> nn.Module:
        raise ValueError("a bug")


def test_a_method_that_cannot_be_built_is_not_skipped_and_says_why_when_it_is_built() -> None:
    method = PruneAfter(Broken())
    assert method.skip(problem(7_756)) is None
    with pytest.raises(MethodError, match="raised ValueError: a bug"):
        building.build(method, problem(7_756), Findings(), 0)


# In runs


@pytest.mark.parametrize("addons", [("prune-after",), ("prune-after:rule=snip", "distill")], ids="+".join)
def test_a_run_that_is_stopped_again_and_again_ends_bit_identical(
    plan: Callable[..., RunSpec], tmp_path: Path, addons: tuple[str, ...]
) -> None:
    spec = plan("roast", *addons)
    do(spec, tmp_path / "whole")
    states, parts = [], RunDirectory.of(tmp_path / "parts", spec)
    while not states or states[-1] == "interrupted":
        left = iter([False] * 2)
        stopped = do(spec, tmp_path / "parts", lambda left=left: next(left, True), checkpoint_seconds=0.0)
        states.append(stopped[0]["state"])
    assert states[-1] == "done"
    assert len(states) > (6 if "distill" in addons else 3)
    whole = RunDirectory.of(tmp_path / "whole", spec)
    assert whole.model_file.read_bytes() == parts.model_file.read_bytes()
    assert whole.correct_file.read_bytes() == parts.correct_file.read_bytes()
    one, other = (records.read(directory.result_file) for directory in (whole, parts))
    assert (one.metrics, one.parameters, one.costs.get("search_flops")) == (
        other.metrics, other.parameters, other.costs.get("search_flops"),
    )  # fmt: skip


@pytest.fixture
def done(plan: Callable[..., RunSpec], tmp_path: Path) -> tuple[RunSpec, RunDirectory]:
    spec = plan("roast", "prune-after", "distill:temperature=2")
    assert do(spec, tmp_path / "runs")[0]["state"] == "done"
    return spec, RunDirectory.of(tmp_path / "runs", spec)


def test_a_record_names_its_addons_agrees_with_its_spec_and_is_repeated_from_itself(
    done: tuple[RunSpec, RunDirectory], tmp_path: Path
) -> None:
    spec, directory = done
    record = records.read(directory.result_file)
    assert record.addons == spec.addons
    checks = check_record(record, directory.correct_file.read_bytes(), spec.task, spec)
    assert [(one.name, one.detail) for one in checks if one.outcome == "differs" and one.name != "metrics"] == []
    assert record.certificate is not None
    assert record.certificate.passed
    assert spec_from(record, spec.task, Here(CPU)).fingerprint == spec.fingerprint
    for change in ({"version": 9}, {"uses": {"dense": 9}}, {"name": "not-here"}):
        other = record.addons[1].model_copy(update=change)
        with pytest.raises(RunError, match="the add-on"):
            spec_from(record.model_copy(update={"addons": (record.addons[0], other)}), spec.task, Here(CPU))
    exported = invoke("export", str(directory.path), "--out", str(tmp_path / "dense.safetensors"))
    assert (exported.exit_code, "77,562 parameters (from " in exported.output) == (0, True)


def test_the_leaderboard_keeps_a_method_with_and_without_addons_apart(
    done: tuple[RunSpec, RunDirectory], plan: Callable[..., RunSpec], tmp_path: Path
) -> None:
    do(plan("roast", seed=1), tmp_path / "runs")
    (board,) = boards(collect(tmp_path / "runs").runs)
    assert len(board.entries) == 2
    assert "with distill" in board.notices[0]
    assert any(entry.definition.settings.get("with distill", {}).get("temperature") == 2.0 for entry in board.entries)
    made = invoke("leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "site"))
    assert made.exit_code == 0, made.output
    for page in (tmp_path / "site" / "methods" / "roast.html", *(tmp_path / "site" / "runs").glob("*/*.html")):
        if "seed1-" not in page.name:
            assert "temperature" in page.read_text(encoding="utf-8"), page


def test_an_old_record_without_addons_is_read(plan: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = plan("roast")
    do(spec, tmp_path)
    content = json.loads(RunDirectory.of(tmp_path, spec).result_file.read_text())
    assert "addons" not in content
    assert records.parse(content, "here").addons == ()
