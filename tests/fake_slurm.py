"""Small programs on PATH that play SLURM: ``sbatch``, ``squeue``, ``sacct``, ``scontrol``, ``scancel``, ``sinfo``, ``srun``.

    @pytest.fixture
    def slurm(tmp_path, monkeypatch):
        return FakeSlurm.on_path(tmp_path / "slurm", monkeypatch)

    slurm.config["MaxArraySize"] = 11       # what 'scontrol show config' prints
    slurm.queue["100_3"] = "RUNNING"        # what squeue shows; "PENDING|Priority" has a reason, "PENDING|Priority|2" restarts too
    slurm.records.append(("100_2", "FAILED", "1:0"))    # the rows of sacct, in order
    slurm.partitions.append("big|up|1:00:00|2|8|16000|gpu:2|OFF")   # the rows of sinfo
    slurm.behave("sacct", code=1, err="sacct: error: Slurm accounting storage is disabled")
    slurm.behave("squeue", out="<html>", seconds=60)    # an answer of its own; after a while
    slurm.remove("sinfo")                   # not installed

What was asked is in :meth:`FakeSlurm.calls`, what was submitted in :attr:`FakeSlurm.submitted`. ``sbatch`` counts ids from 101
and puts the job, or every task of its array, into the queue as PENDING; nothing is ever started. PATH holds these programs,
git and a shell, and nothing else: a SLURM that is installed on the machine is out of sight.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")
CONFIG = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "ClusterName": "fake",
    "JobRequeue": "1",
    "KillWait": "30 sec",
    "MaxArraySize": "1001",
    "PreemptMode": "REQUEUE",
    "PreemptType": "preempt/partition_prio",
    "SLURM_VERSION": "22.05.8",
}
PARTITIONS = ["main|up|2-00:00:00|4|16|64000|gpu:a100:4|REQUEUE", "high|up|infinite|1|8|16000|(null)|OFF"]
_OTHERS = ("git", "sh", "bash", "env")

_PROGRAM = """\
#!{python} -SE
import json, pathlib, re, sys, time

state, program, words = pathlib.Path({state!r}), pathlib.Path(sys.argv[0]).name, sys.argv[1:]


def read(name):
    return json.loads((state / (name + ".json")).read_text())


def write(name, content):
    (state / (name + ".json")).write_text(json.dumps(content))


def asked_for():
    wanted = set(words[words.index("-j") + 1].split(",")) if "-j" in words else None
    return lambda job: wanted is None or job.split("_")[0] in wanted or job in wanted


def sbatch():
    text = pathlib.Path(next(word for word in words if not word.startswith("-"))).read_text()
    job = read("next")
    write("next", job + 1)
    write("submitted", [*read("submitted"), dict(id=str(job), script=text, arguments=words)])
    array = re.search(r"^#SBATCH --array=(\\d+)-(\\d+)", text, re.MULTILINE)
    names = [f"{{job}}_{{i}}" for i in range(int(array[1]), int(array[2]) + 1)] if array else [str(job)]
    write("queue", {{**read("queue"), **{{name: "PENDING|Priority" for name in names}}}})
    print("Submitted batch job", job)


def squeue():
    wanted = asked_for()
    for job, what in read("queue").items():
        if wanted(job):
            word, reason, restarts = (what + "||").split("|")[:3]
            print(job, word, restarts or 0, reason or "None", "", sep="|")


def sacct():
    wanted = asked_for()
    for row in read("records"):
        if wanted(row[0]):
            print(*row, sep="|")


def scontrol():
    if words[:2] == ["show", "config"]:
        print("Configuration data as of 2026-01-01T00:00:00")
        for name, value in read("config").items():
            print(f"{{name:<24}}= {{value}}")


def scancel():
    write("queue", {{job: what for job, what in read("queue").items() if job not in words and job.split("_")[0] not in words}})


def sinfo():
    print(*read("partitions"), sep="\\n")


def srun():
    pass


with open(state / "calls.jsonl", "a") as file:
    file.write(json.dumps([program, *words]) + "\\n")
behaviour = read("behaviour").get(program)
if behaviour:
    time.sleep(behaviour["seconds"])
    sys.stderr.write(behaviour["err"])
    if behaviour["out"] is not None:
        sys.stdout.write(behaviour["out"])
        sys.exit(behaviour["code"])
    if behaviour["code"]:
        sys.exit(behaviour["code"])
if "--version" in words:
    print("slurm 22.05.8")
else:
    globals()[program]()
"""


@dataclass(frozen=True)
class Submission:
    """What ``sbatch`` was given."""

    id: str
    script: str
    arguments: list[str]

    @property
    def options(self) -> dict[str, str]:
        """The ``#SBATCH --name=value`` lines; a flag has an empty value."""
        lines = [line.removeprefix("#SBATCH --") for line in self.script.splitlines() if line.startswith("#SBATCH --")]
        return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


class FakeSlurm:
    """The programs in a folder and what they are to answer."""

    def __init__(self, folder: Path) -> None:
        self.programs, self._state = folder / "programs", folder / "state"
        for path in (self.programs, self._state):
            path.mkdir(parents=True)
        start = {"next": 101, "submitted": [], "queue": {}, "records": [], "behaviour": {}}
        for name, content in {**start, "config": CONFIG, "partitions": PARTITIONS}.items():
            self._write(name, content)
        for program in PROGRAMS:
            path = self.programs / program
            path.write_text(_PROGRAM.format(python=sys.executable, state=str(self._state)), encoding="utf-8")
            path.chmod(0o755)
        for name in _OTHERS:
            if found := shutil.which(name):
                (self.programs / name).symlink_to(found)
        self.queue, self.config = _Dict(self, "queue"), _Dict(self, "config")
        self.records, self.partitions = _List(self, "records"), _List(self, "partitions")

    @classmethod
    def on_path(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
        """Make the programs and let PATH be their folder."""
        fake = cls(folder)
        monkeypatch.setenv("PATH", str(fake.programs))
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            monkeypatch.delenv(name)
        return fake

    def behave(
        self, program: str, *, code: int = 0, out: str | None = None, err: str = "", seconds: float = 0.0
    ) -> None:
        """Let a program wait, complain, answer ``out`` (None: as usual, unless it fails) and end with an exit code."""
        settings = {"code": code, "out": out, "err": err, "seconds": seconds}
        self._write("behaviour", {**self._read("behaviour"), program: settings})

    def remove(self, *programs: str) -> None:
        """Let programs not be installed; without a name, none is."""
        for program in programs or PROGRAMS:
            (self.programs / program).unlink()

    def calls(self, program: str) -> list[list[str]]:
        """The words of every call of a program."""
        path = self._state / "calls.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [words for name, *words in map(json.loads, lines) if name == program]

    @property
    def submitted(self) -> list[Submission]:
        """Everything that was submitted, in order."""
        return [Submission(**one) for one in self._read("submitted")]

    def _read(self, name: str) -> Any:
        return json.loads((self._state / f"{name}.json").read_text(encoding="utf-8"))

    def _write(self, name: str, content: Any) -> None:
        (self._state / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


class _Dict(MutableMapping[str, Any]):
    """A dict in a file that the programs read too."""

    def __init__(self, fake: FakeSlurm, name: str) -> None:
        self._fake, self._name = fake, name

    def __getitem__(self, key: str) -> Any:
        return self._fake._read(self._name)[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._fake._write(self._name, {**self._fake._read(self._name), key: value})

    def __delitem__(self, key: str) -> None:
        self._fake._write(self._name, {k: v for k, v in self._fake._read(self._name).items() if k != key})

    def __iter__(self) -> Iterator[str]:
        return iter(self._fake._read(self._name))

    def __len__(self) -> int:
        return len(self._fake._read(self._name))


class _List(MutableSequence[Any]):
    """A list in a file that the programs read too."""

    def __init__(self, fake: FakeSlurm, name: str) -> None:
        self._fake, self._name = fake, name

    def __getitem__(self, index: Any) -> Any:
        return self._fake._read(self._name)[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        content = self._fake._read(self._name)
        content[index] = value
        self._fake._write(self._name, content)

    def __delitem__(self, index: Any) -> None:
        content = self._fake._read(self._name)
        del content[index]
        self._fake._write(self._name, content)

    def __len__(self) -> int:
        return len(self._fake._read(self._name))

    def extend(self, values: Iterable[Any]) -> None:
        self[len(self) :] = list(values)

    def insert(self, index: int, value: Any) -> None:
        content = self._fake._read(self._name)
        content.insert(index, value)
        self._fake._write(self._name, content)
