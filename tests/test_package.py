"""The package: what is built, installed and imported, and what must not be."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
PLUGINS = ("npasbench.baselines", "npasbench.tasks", "npasbench.leaderboard")
HEAVY = ("torch", "torchvision", "timm", "pandas", "scipy", "sklearn", "numpy", "plotly", "itables", "jinja2")
NOT_COPIED = shutil.ignore_patterns(
    "__pycache__", "*.egg-info", "build", "dist", ".*cache", ".git", ".tox", ".venv", "venv"
)


def test_the_package_list_equals_the_folders_on_disk() -> None:
    found = {
        ".".join((name, *file.parent.relative_to(ROOT / folder).parts))
        for name, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(PACKAGES)


def test_every_folder_with_modules_is_a_package() -> None:
    without = {
        str(file.parent.relative_to(ROOT))
        for folder in FOLDERS.values()
        for file in (ROOT / folder).rglob("*.py")
        if not (file.parent / "__init__.py").exists()
    }
    assert without == set()


def test_no_module_of_the_harness_hides_a_mapped_room() -> None:
    rooms = {name.rpartition(".")[2] for name in PLUGINS}
    assert not rooms & {path.stem for path in (ROOT / "npasbench").iterdir()}


def test_every_entry_point_names_a_module_that_exists() -> None:
    groups = PROJECT["project"]["entry-points"]
    targets = [value for group in groups.values() for value in group.values()]
    missing = [value for value in targets if _file_of(value.partition(":")[0]) is None]
    assert missing == []


# What imports what


def test_the_harness_never_imports_a_plugin() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in (ROOT / "npasbench").rglob("*.py")
        for line, name in _imports(file)
        if name.startswith(PLUGINS)
    ]
    assert found == []


def test_baselines_import_only_the_harness_and_libraries() -> None:
    libraries = {_module(text) for text in PROJECT["project"]["dependencies"]}
    libraries |= {"npasbench", *sys.stdlib_module_names}
    rooms = ("npasbench.tasks", "npasbench.leaderboard", "npasbench.commands", "npasbench.running")
    found = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in (ROOT / "baselines").rglob("*.py")
        for line, name in _imports(file)
        if name.partition(".")[0] not in libraries or name.startswith(rooms)
    ]
    assert found == []


def test_baselines_name_each_other_relatively() -> None:
    files = (ROOT / "baselines").rglob("*.py")
    assert [str(file) for file in files if "npasbench.baselines" in file.read_text(encoding="utf-8")] == []


def test_no_package_has_an_assert() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in FOLDERS.values()
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(_parsed(file))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_help_imports_no_torch() -> None:
    """Neither the list of verbs nor the help of one: everything there is would have to wait for it."""
    program = (
        "import contextlib, sys\n"
        "from npasbench import cli\n"
        "for words in [[], *[[verb] for verb in cli._verbs()]]:\n"
        "    sys.argv = ['npasbench', *words, '--help']\n"
        "    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):\n"
        "        cli.main()\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_npasbench_imports_no_torch() -> None:
    program = "import npasbench, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# What is built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, the wheel built from the sdist, so that the sdist is known to be complete."""
    source, out = tmp_path_factory.mktemp("source") / "npasbench", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("runs", "site", "exported") or path.name in NOT_COPIED(str(ROOT), [path.name]):
            continue
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=NOT_COPIED)
        else:
            shutil.copy2(path, source / path.name)
    _run(sys.executable, "-m", "build", *_isolation(), "--outdir", str(out), str(source))
    return out


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_all_data(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    wanted = {
        f"{name.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted - names == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_sdist_holds_the_documents_and_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    documents = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".py", ".toml")]
    tests = list((ROOT / "tests").glob("*.py"))
    wanted = {path.relative_to(ROOT).as_posix() for path in [*documents, *tests]}
    wanted |= {"LICENSE", "README.md", "CONTRIBUTING.md", "CITATION.cff", "tox.ini", ".ci/run"}
    assert wanted - names == set()


@pytest.mark.slow
def test_the_installed_wheel_runs_from_another_folder(built: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    _run(sys.executable, "-m", "venv", "--system-site-packages", str(fresh))
    python = fresh / "bin" / "python"
    site = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Libraries come from this environment; as plain paths, so that no editable install of npasbench comes along.
    here = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "libraries_of_the_test.pth").write_text("\n".join(here), encoding="utf-8")
    wheel = str(next(built.glob("*.whl")))
    _run(str(python), "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    command = str(fresh / "bin" / "npasbench")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    where = _run(str(python), "-c", "import npasbench; print(npasbench.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(fresh)
    assert "quickstart" in _run(command, "--help", cwd=elsewhere)
    listed = _run(command, "list", cwd=elsewhere)
    assert all(
        name in listed for name in (*PROJECT["project"]["entry-points"]["npasbench.methods"], "digits15-wrn-10-1")
    )
    assert "template-bank" in _run(command, "show", "quickstart", cwd=elsewhere)
    assert "77562" in _run(command, "show", "digits15-wrn-10-1", cwd=elsewhere)


# Helpers


def _run(*words: str, cwd: Path | None = None) -> str:
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(words, cwd=cwd, env=surroundings, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _isolation() -> list[str]:
    """Build with this environment's setuptools where it is new enough; else let build fetch one."""
    try:
        major = int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return []
    return ["--no-isolation"] if major >= 77 else []


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with its line; relative ones resolved, ``from x import y`` as ``x.y``."""
    package = _package_of(file)
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _package_of(file: Path) -> str:
    """The package that holds a module, ``a.b`` for ``a/b/c.py``; for ``a/b/__init__.py`` it is itself."""
    name, folder = next((n, f) for n, f in FOLDERS.items() if file.is_relative_to(ROOT / f))
    return ".".join((name, *file.parent.relative_to(ROOT / folder).parts))


def _file_of(module: str) -> Path | None:
    name = max((n for n in FOLDERS if module == n or module.startswith(n + ".")), key=len, default=None)
    if name is None:
        return None
    path = ROOT.joinpath(FOLDERS[name], *module.removeprefix(name).strip(".").split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _module(requirement: str) -> str:
    """The import name of a declared dependency."""
    name = re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]
    return {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_"))
