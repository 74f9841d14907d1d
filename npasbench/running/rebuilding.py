"""What a record says of its network, held against the one that its spec builds: counts and multiply-adds, untrained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from npasbench.building import build, method_of, problem_of
from npasbench.errors import BudgetTooSmall, LayerCollapse, NpasbenchError
from npasbench.measuring.cost import multiply_adds
from npasbench.measuring.count import count
from npasbench.measuring.model_file import running_statistics
from npasbench.method import Findings, Method
from npasbench.plan import RunSpec
from npasbench.running.commit import commit
from npasbench.running.reading import short
from npasbench.running.record import Record
from npasbench.running.record_checks import Check

NAME = "network"
_MOST = 4
"""Times the dense count: networks of larger budgets are built only where training is repeated."""
_VERSIONS = 0.01
"""By what share numbers may differ that other code made: methods round otherwise, and torch counts otherwise."""


@dataclass(frozen=True)
class Built:
    """A network before training. What may still change in it is None."""

    total: int
    """At the end of training, as the method promises it."""
    bank_params: int | None
    running_statistics: int
    side_information_bits: int | None
    macs: int


class Builder:
    """Builds one network for each cell, and another seed's only where a record disagrees with the first's."""

    def __init__(self) -> None:
        self._cells: dict[str, Built | Check] = {}

    def check(self, record: Record, cell: str, spec: Callable[[], RunSpec]) -> Check:
        """Whether the record's counts and multiply-adds are those of the network that its spec builds.

        ``cell`` is the same for all seeds of a cell and for nothing else.
        """
        if cell not in self._cells:
            self._cells[cell] = _built(spec())
        elif isinstance(first := self._cells[cell], Built) and any(_faults(record, first)):
            return _compared(record, _built(spec()))
        return _compared(record, self._cells[cell])


def _compared(record: Record, built: Built | Check) -> Check:
    if isinstance(built, Check):
        return built
    faults = list(_faults(record, built))
    where = "" if _same_code(record) else f"counted by another version of npasbench or torch: within {_VERSIONS:.0%}"
    return Check(NAME, "differs", "; ".join(faults)) if faults else Check(NAME, "agrees", where)


def _same_code(record: Record) -> bool:
    here, told = commit()["commit"], record.provenance
    return here is not None and (told.get("commit"), told.get("torch")) == (here, torch.__version__)


def _built(spec: RunSpec) -> Built | Check:
    """The network of a spec, or why there is none to compare with."""
    if spec.budget_parameters > _MOST * spec.dense_parameters:
        return Check(NAME, "not checked", f"a budget above {_MOST} times the dense count is not built")
    try:
        method = method_of(spec)
        if method.needs_search():
            return Check(NAME, "not checked", "its network depends on a search, which is not repeated")
        return _measured(method, spec)
    except (BudgetTooSmall, LayerCollapse) as error:
        return Check(NAME, "differs", f"it cannot be built: {short(error, 300)}")
    except NpasbenchError as error:
        return Check(NAME, "not checked", short(error, 300))
    except Exception as error:  # the knobs are a stranger's, and methods read them
        return Check(NAME, "not checked", f"{type(error).__name__}: {short(error, 300)}")


def _measured(method: Method, spec: RunSpec) -> Built:
    problem = problem_of(spec)
    network = build(method, problem, Findings(), spec.seed)
    masks = method.structure(network).masks
    counted = count(network, masks=masks)
    total = method.final_count(network)
    # What has no masks, no structure of its own and as many parameters at the end as now stays as it is.
    stays = not masks and type(method).structure is Method.structure and total == counted.total
    with torch.enable_grad():
        macs, _ = multiply_adds(network, torch.zeros(1, *problem.input_shape))
    return Built(
        total,
        counted.bank_params if stays else None,
        running_statistics(network),
        method.side_information_bits(network) if stays else None,
        macs,
    )


def _faults(record: Record, built: Built) -> Iterator[str]:
    # Costs are measured once for all seeds of a cell. The generator's depend on the seed with some methods, and are not compared.
    told: dict[str, tuple[float | None, int | None]] = {
        "parameters": (record.parameters.get("total"), built.total),
        "parameters in banks": (record.bank_params, built.bank_params),
        "running statistics": (record.running_statistics, built.running_statistics),
        "bits of side information": (record.side_information_bits, built.side_information_bits),
        "multiply-adds": (record.costs.get("macs"), built.macs),
    }
    room = 0.0 if _same_code(record) else _VERSIONS
    for what, (says, found) in told.items():
        if says is not None and found is not None and not abs(says - found) <= room * found:
            yield f"the network has {found:,} {what}, not {says:,.0f}"
