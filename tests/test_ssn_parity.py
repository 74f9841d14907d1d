"""The published release's allocations and generated weights, record by record (facts; the source is named in the file)."""

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from npasbench.api import Findings, LayerSpec
from npasbench.baselines.ssn import Ssn
from npasbench.cli import npasbench as command
from npasbench.registry import create
from npasbench.sharing.generate import BankedWeights, described
from npasbench.sharing.learning import LearningWeights
from npasbench.sharing.upsample import TooSmall

RELEASE = json.loads((Path(__file__).parent / "data" / "ssn_parity.json").read_text(encoding="utf-8"))
GROUPINGS = {
    "single": "single",
    "by_layer_class(0)": "type",
    "by_class_and_shape(-1)": "shape",
    "manual14": "manual-wrn-28-10",
    "learning_phase": "learning",
}
NOBODY = torch.Generator().manual_seed(0)


def layers_of(network: str) -> list[LayerSpec]:
    return [
        LayerSpec(
            layer["name"],
            tuple(layer["shape"]),
            "linear" if len(layer["shape"]) == 2 else "convolution",
            fan_in=math.prod(layer["shape"][1:]),
        )
        for layer in RELEASE["dense"][network]["layers"]
    ]


def network_of(record: dict) -> str:
    if record["arch"] == "wrn_imagenet":
        return "wrn_imagenet-0-1-c1000"
    return f"wrn-{record['depth']}-{record['width']}-c{record['num_classes']}"


def method_for(record: dict, layers: list[LayerSpec], cap: int) -> Ssn:
    groups = GROUPINGS.get(record["grouping"], tuple(i % 4 for i in range(len(layers))))
    knobs = {
        "share": record["share_type"],
        "upsample": record["upsample_type"],
        "window": record["upsample_window"],
        "max_templates": cap,
        "groups": groups,
    }
    return create(Ssn, knobs, "ssn")


def described_for(record: dict) -> tuple[list[dict], int]:
    layers = layers_of(network_of(record))
    method = method_for(record, layers, record["bank_size_K_cap"])
    if record["grouping"] == "learning_phase":
        weights = method.weights(layers, record["max_params"], Findings(), NOBODY, True)
        assert isinstance(weights, LearningWeights)
        return weights.described(), sum(p.numel() for n, p in weights.named_parameters() if not n.startswith("bank"))
    division = method.division(layers, method.grouped(layers, Findings(), NOBODY))
    groups = division.at(record["max_params"])
    return described(groups, layers), method.extras(groups).total


def name_of(record: dict) -> str:
    net = f"{record['arch']}-{record['depth']}-{record['width']}"
    how = f"{record['share_type']}-{record['upsample_type']}{record['upsample_window']}-{record['grouping']}"
    return f"{net}-{record['max_params']}-{how}-{record['bank_size_K_cap']}"


@pytest.mark.parametrize("record", [r for r in RELEASE["ssn"] if "error" not in r], ids=name_of)
def test_an_allocation_is_the_releases(record: dict) -> None:
    groups, extras = described_for(record)
    counted = record["breakdown"]
    assert extras == sum(counted[key] for key in ("coefficients_or_embeddings", "emb_projection", "upsampler"))
    are_the_releases(groups, record)


def are_the_releases(groups: list[dict], record: dict) -> None:
    """Banks, and all layers' templates, blocks, small shapes and copies."""
    for ours, theirs in zip(groups, record["groups"], strict=True):
        assert ours["bank_size"] == theirs["bank_size"]
        assert ours.get("dense", False) == theirs["single_layer"]
        assert ours["unused"] == theirs.get("unused_bank_params", 0)
        assert len(ours["layers"]) == theirs["num_layers"]
        published = {layer["layer_id"]: layer for layer in theirs.get("layers", [])}
        assert not published or len(published) == theirs["num_layers"]
        for layer in ours["layers"] if published else []:
            block = published[layer["layer"]]
            assert layer["shape"] == block["shape"]
            assert (layer["templates"], layer["start"], layer["end"]) == (
                block["candidates"],
                block["start"],
                block["end"],
            )
            assert layer["resized_from"] == block.get("resized_from")
            assert layer.get("copies") == block.get("upsample_mult")


def of_each_kind() -> list[dict]:
    """One record of each kind, of the smaller network where there is one; not what this project's networks do not hold."""
    kinds: dict[tuple, dict] = {}
    for record in RELEASE["ssn"]:
        if "error" not in record and record["arch"] == "wrn":
            kind = tuple(
                record[key] for key in ("share_type", "upsample_type", "upsample_window", "grouping", "bank_size_K_cap")
            )
            known = kinds.get(kind)
            if known is None or (record["depth"], -record["max_params"]) < (known["depth"], -known["max_params"]):
                kinds[kind] = record
    return list(kinds.values())


@pytest.mark.parametrize("record", of_each_kind(), ids=name_of)
def test_the_command_shows_the_releases_allocation_and_counts(record: dict) -> None:
    layers = layers_of(network_of(record))
    knobs = method_for(record, layers, record["bank_size_K_cap"]).settings.model_dump(exclude_defaults=True)
    words = ["inspect", "ssn", "--architecture", f"wrn-{record['depth']}-{record['width']}"]
    words += ["--classes", str(record["num_classes"]), "--bank-size", str(record["max_params"]), "--json"]
    for knob, value in knobs.items():
        words += ["--set", f"{knob}={json.dumps(value) if isinstance(value, tuple) else value}"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    shown, counted = json.loads(done.stdout), record["breakdown"]
    are_the_releases(shown["groups"], record)
    kinds = shown["parameters"]
    assert kinds["norm"] == counted["batchnorm"]
    assert kinds["coefficients"] + kinds["embeddings"] == counted["coefficients_or_embeddings"]
    assert kinds["projections"] == counted["emb_projection"]
    assert kinds["upsamplers"] == counted["upsampler"]
    assert kinds["unshared"] == counted["single_layer_weight"]
    assert kinds["bank"] == sum(group["bank_size"] for group in record["groups"] if not group["single_layer"])


@pytest.mark.parametrize("record", [r for r in RELEASE["ssn"] if "error" in r], ids=name_of)
def test_what_the_release_asserts_away_is_too_small_here(record: dict) -> None:
    with pytest.raises(TooSmall):
        described_for(record)


@pytest.mark.parametrize(
    "case",
    RELEASE["golden_weights"]["cases"],
    ids=lambda c: f"{c['share_type']}-{c['upsample_type']}-{c['max_params']}",
)
def test_generated_weights_are_the_releases(case: dict) -> None:
    layers = layers_of("wrn-16-4-c100")
    weights = method_for(case, layers, 8).weights(layers, case["max_params"], Findings(), NOBODY, True).double()
    fill(weights, layers)
    with torch.no_grad():
        generated = weights()
    for record in case["layers"]:
        flat = generated[layers[record["layer_id"]].name].reshape(-1)
        assert flat.numel() == record["numel"]
        close = {"rtol": 1e-9, "atol": 1e-12}
        expected = torch.tensor(record["first5"] + record["last3"], dtype=torch.float64)
        torch.testing.assert_close(torch.cat([flat[:5], flat[-3:]]), expected, **close)
        torch.testing.assert_close(float(flat.sum()), record["sum"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(float(flat.square().sum()), record["sumsq"], **close)


def fill(weights: BankedWeights | LearningWeights, layers: list[LayerSpec]) -> None:
    """The recipe of the golden records: sines and cosines of positions, layer numbers in the embeddings."""
    number = {layer.name: index for index, layer in enumerate(layers)}
    rows = rows_of(weights)
    with torch.no_grad():
        for bank in weights.bank.values():
            bank.copy_(torch.sin(0.01 * torch.arange(bank.numel(), dtype=torch.float64)))
        for matrix in weights.coefficients.values():
            matrix.copy_(((torch.arange(matrix.shape[1], dtype=torch.float64) + 1) / 10).expand_as(matrix))
        for key, table in weights.embeddings.items():
            for row, name in enumerate(rows[key]):
                table[row] = torch.sin(0.1 * torch.arange(24, dtype=torch.float64) + number[name])
        for linear in weights.projections.values():
            k = linear.out_features
            linear.weight.copy_(torch.cos(0.05 * torch.arange(24 * k, dtype=torch.float64)).view(k, 24))
            linear.bias.copy_(0.01 * torch.arange(k, dtype=torch.float64))
        for learned in getattr(weights, "upsamplers", {}).values():
            learned.copy_(torch.cos(0.3 * torch.arange(learned.numel(), dtype=torch.float64)).view_as(learned))


def rows_of(weights: BankedWeights | LearningWeights) -> dict[str, list[str]]:
    if isinstance(weights, LearningWeights):
        return {"0": [layer.name for layer in weights.specs]}
    return {
        f"{index}_{k}": [group.layers[position].name for position in rows]
        for index, (group, reading) in enumerate(zip(weights.groups, weights.readings, strict=True))
        for k, rows in reading.rows.items()
    }
