"""Configuration: Hydra, with keys that must be declared and messages a user can act on (docs/design.md 4.5).

The root yaml file of a tree (`configs/config.yaml`, `configs/mesh_vq_vae/config.yaml`) declares every key
once. What group files and the command line set is compared with that declaration; an unknown key raises
`MoroError` with the nearest declared one. Free-form are the sub-trees of `FREE_FORM` and whatever is declared
as null; under `trainer` any argument of Lightning's Trainer is accepted.
"""

import ast
import difflib
import functools
import inspect
import operator
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moro.errors import MoroError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
FREE_FORM = ("hydra", "optim.scheduler", "dataset.noise")
# What gives the jobs of a sweep result folders of their own.
FOLDER_KEYS = ("tag", "subtag", "name", "benchmark", "option", "preset", "data", "meshconv")

_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max}


# ---------------------------------------------------------------------------------------------- resolvers


def arithmetic(*expression: object) -> float:
    """Value of an arithmetic expression: numbers, + - * / // **, parentheses, min(...), max(...).

    Takes the place of the reference's `eval` resolver, which ran any Python (spec: models 8.2).
    OmegaConf splits at commas, hence several arguments. Raises MoroError for anything else.
    """
    text = ",".join(str(part) for part in expression)
    try:
        return _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise MoroError(f"cannot compute '{text}' (numbers, + - * / // **, min, max only)") from error


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.Pow) and (abs(b) > 64 or abs(a) > 1e6):
                raise ValueError("power too large")  # 9**9**9 would run for ever
            return _OPERATORS[type(op)](a, b)
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_evaluate(operand))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]):
            return _FUNCTIONS[name](*(_evaluate(arg) for arg in args))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


def slug(text: object) -> str:
    """`text` as part of a file name: everything but letters, digits, `.`, `_` and `-` becomes `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(text)).strip("-")


def register_resolvers() -> None:
    """Make `${eval:...}` and `${slug:...}` known to OmegaConf; may be called any number of times."""
    OmegaConf.register_new_resolver("eval", arithmetic, replace=True)
    OmegaConf.register_new_resolver("slug", slug, replace=True)


register_resolvers()  # at import: the processes of a sweep compose before anything of ours is called


# -------------------------------------------------------------------------------------------- declaration


class Declaration:
    """The declared keys and the groups of one configuration tree.

    config_dir   folder of the tree
    config_name  its root file, without .yaml (files it includes by plain name count as part of it)
    """

    def __init__(self, config_dir: Path, config_name: str) -> None:
        self.config_dir = config_dir
        self.tree = self._load(config_name)
        self.keys = list(_flatten(self.tree))
        self.groups = sorted(
            str(path.relative_to(config_dir)) for path in config_dir.rglob("*") if path.is_dir()
        )

    def _load(self, config_name: str) -> dict[str, Any]:
        path = self.config_dir / f"{config_name}.yaml"
        if not path.is_file():
            raise MoroError(f"no configuration file {path}; choose one of {self.config_dir}")
        config = OmegaConf.load(path)
        merged = OmegaConf.create({})
        for entry in config.pop("defaults", []):
            if isinstance(entry, str) and entry != "_self_":
                merged = OmegaConf.merge(merged, self._load(entry))
        return OmegaConf.to_container(OmegaConf.merge(merged, config), resolve=False)

    def check(self, config: DictConfig) -> None:
        """Raise MoroError if `config` (composed) has an undeclared key, a value of the wrong kind, or an
        interpolation that cannot be resolved."""
        config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        self._check_node(OmegaConf.to_container(config, resolve=False), self.tree, "")
        try:
            OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            raise MoroError(f"cannot resolve the configuration: {_one_line(error)}") from error

    def check_key(self, key: str, value: object = None) -> None:
        """Raise MoroError, naming the nearest key, if dotted `key` is not declared."""
        node: Any = self.tree
        parts = key.split(".")
        for depth, part in enumerate(parts):
            if self.is_free(".".join(parts[:depth])) or node is None and depth > 0:
                return
            if not isinstance(node, dict) or part not in node:
                if parts[0] == "trainer" and depth == 1 and part in trainer_arguments():
                    return
                raise self._unknown(key)
            node = node[part]
        if isinstance(value, dict) and isinstance(node, dict):
            self._check_node(value, node, key)

    def is_free(self, key: str) -> bool:
        """Whether anything may stand below dotted `key`."""
        return any(key == free or key.startswith(f"{free}.") for free in FREE_FORM)

    def _check_node(self, given: dict[str, Any], declared: dict[str, Any], prefix: str) -> None:
        for name, value in given.items():
            key = f"{prefix}.{name}" if prefix else str(name)
            if self.is_free(key):
                continue
            if name not in declared:
                if prefix == "trainer" and name in trainer_arguments():
                    continue
                raise self._unknown(key)
            if isinstance(value, dict) and isinstance(declared[name], dict):
                self._check_node(value, declared[name], key)
            else:
                _check_kind(key, value, declared[name])

    def _unknown(self, key: str) -> MoroError:
        return MoroError(f"unknown configuration key '{key}'; did you mean {self._nearest(key)}?")

    def _nearest(self, key: str) -> str:
        candidates = self.keys + self.groups
        if key.startswith("trainer."):
            candidates = candidates + [f"trainer.{name}" for name in trainer_arguments()]
        matches = difflib.get_close_matches(key, candidates, n=1, cutoff=0.75)
        if not matches:  # the last part alone: someone forgot, or mistook, the path
            by_leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(candidates)}
            leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_leaf, n=1, cutoff=0.5)
            matches = [by_leaf[name] for name in leaf]
            matches = matches or difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)
        return f"'{matches[0]}'"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")


@functools.cache
def trainer_arguments() -> frozenset[str]:
    """Names of the arguments of Lightning's Trainer (imported late: it takes a second)."""
    from pytorch_lightning import Trainer

    return frozenset(inspect.signature(Trainer.__init__).parameters) - {"self"}


def _check_kind(key: str, value: object, declared: object) -> None:
    """Numbers stay numbers, switches switches; null and interpolations may stand for anything."""
    if value is None or declared is None or _is_interpolation(value) or _is_interpolation(declared):
        return
    if key.startswith("trainer.") or key == "demo.precision":
        return  # Lightning takes several kinds (precision: 32 or "bf16-mixed") and checks them itself
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "true or false"),
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "a group of keys"),
    ]
    for kind, description in kinds:
        if isinstance(declared, kind):
            wrong = not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))
            if wrong:
                raise MoroError(f"configuration key '{key}' must be {description}, not '{value}'")
            return
    if isinstance(declared, str) and isinstance(value, (list, dict)) and not key.endswith("_path"):
        raise MoroError(f"configuration key '{key}' must be a word or a path, not '{value}'")


def _is_interpolation(value: object) -> bool:
    return isinstance(value, str) and "${" in value


# ------------------------------------------------------------------------------------------- command line


def clean_overrides(overrides: Iterable[str], declaration: Declaration) -> list[str]:
    """Command-line overrides checked against the declaration and in a spelling Hydra accepts.

    `+key=value` of a declared key becomes `key=value` (keys that were undeclared once are declared now); an
    argument of the Trainer and a key below a free-form sub-tree get the `++` Hydra asks for.
    Raises MoroError for unknown keys, naming the nearest, and for lines that are no overrides.
    """
    return [_clean_override(line, declaration) for line in overrides]


def _clean_override(line: str, declaration: Declaration) -> str:
    try:
        override: Override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise MoroError(f"cannot read '{line}'; write key=value (special characters in quotes)") from error
    key = override.key_or_group.replace("@", ".") if override.package else override.key_or_group
    bare = line.lstrip("+~")
    if key.split(".")[0].split("/")[0] == "hydra" or override.package:
        return line
    if key in declaration.groups:
        if not override.is_delete() and override.value() is None:
            return f"{key}='null'"  # the group file of that name; Hydra wants a word
        return bare if override.is_add() else line
    value = override.value() if not override.is_delete() and not override.is_sweep_override() else None
    declaration.check_key(key, value if isinstance(value, dict) else None)
    if override.is_delete():
        return line
    declared = key in declaration.keys and not declaration.is_free(key)
    return bare if declared and not override.is_force_add() else f"++{bare}"


def _clean_command_line(argv: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """The whole command line with its overrides cleaned; Hydra's own flags stay as they are."""
    args = get_args_parser().parse_args(list(argv))
    if args.config_dir or args.config_path:
        raise MoroError("--config-dir and --config-path are not supported; put group files below configs/")
    declaration = Declaration(config_dir, args.config_name or config_name)
    if args.multirun:
        _check_sweep(args.overrides)
    cleaned = {line: _clean_override(line, declaration) for line in args.overrides}
    return [cleaned.get(word, word) for word in argv]


def _check_sweep(overrides: Iterable[str]) -> None:
    """Raise MoroError if the jobs of a sweep would write into one folder."""
    varied = (line.split("=", 1) for line in overrides if "=" in line and ("," in line or "${" in line))
    keys = [key.lstrip("+") for key, _ in varied]
    if not any(key in FOLDER_KEYS or key.startswith("demo.") for key in keys):
        raise MoroError("the runs of this sweep would write into one folder; give each its own tag, e.g. "
                        "'tag=lr_${optim.lr}'")


# ------------------------------------------------------------------------------------------------ composing


def compose_config(
    config_name: str = "config",
    overrides: Iterable[str] = (),
    config_dir: str | Path = CONFIG_DIR,
) -> DictConfig:
    """Compose a configuration as the command line would; for programs and tests.

    config_name  root file without .yaml; `mesh_vq_vae/config` names the tokenizer's tree
    overrides    command-line words: `option=video_train`, `trainer.max_steps=10`, ...
    returns      the composed, checked, unresolved configuration (without the `hydra` node)
    Raises MoroError for unknown keys, groups or values of the wrong kind.
    """
    root = Path(config_dir).resolve() / config_name
    register_resolvers()
    declaration = Declaration(root.parent, root.name)
    lines = clean_overrides(overrides, declaration)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(root.parent), version_base="1.3"):
            config = compose(config_name=root.name, overrides=lines)
    except (HydraException, OmegaConfBaseException) as error:
        raise MoroError(f"cannot compose {config_name}: {_one_line(error)}") from error
    declaration.check(config)
    return config


def hydra_main(
    config_path: str, config_name: str
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorator of a script's `main(cfg)`: Hydra's main with the rules of this module.

    config_path  folder of the tree, relative to the script
    config_name  its root file

    The command line is checked before Hydra composes (Hydra's flags work, multirun too), the result after it;
    random generators are seeded by `cfg.seed`; a MoroError ends the program with one line on stderr and
    status 1 (in a sweep, the job: the others go on).
    """

    def decorator(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        config_dir = (Path(inspect.getfile(task)).resolve().parent / config_path).resolve()

        @functools.wraps(task)
        def run(config: DictConfig) -> Any:
            job = HydraConfig.get()
            # inside Hydra's job: an exception would be printed as a traceback
            with ExitOnMoroError(leave=job.mode == RunMode.RUN):
                Declaration(config_dir, job.job.config_name).check(config)
                seed_everything(config.get("seed", 0))
                return task(config)

        def main() -> None:
            register_resolvers()
            with ExitOnMoroError():
                sys.argv[1:] = _clean_command_line(sys.argv[1:], config_dir, config_name)
            hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(run)()

        return main

    return decorator


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (data sets have generators of their own)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class ExitOnMoroError:
    """Context in which a MoroError, or an OSError that names a file, becomes one line on stderr and, if
    `leave`, exit status 1."""

    def __init__(self, leave: bool = True) -> None:
        self.leave = leave

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MoroError) or isinstance(error, OSError) and error.filename is not None:
            sys.stderr.write(f"error: {_one_line(error)}\n")
            sys.stderr.flush()
            if self.leave:
                sys.exit(1)


def _one_line(error: BaseException) -> str:
    """Its sentence; one that comes from a process of a loader is wrapped in that process's traceback."""
    return " ".join(str(error).rsplit("MoroError: ", 1)[-1].split())
