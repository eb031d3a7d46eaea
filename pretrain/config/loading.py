"""From YAML and ``key=value`` overrides to a checked :class:`~pretrain.config.sections.Config`, and back."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pretrain.config.checks import contradictions, refuse
from pretrain.config.sections import Config
from pretrain.runtime import yaml_file
from pretrain.runtime.suggestions import nearest

C = TypeVar("C", bound=Config)


@overload
def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: Path | None, overrides: Sequence[str], kind: type[C]) -> C: ...


def load_config(path: Path | None, overrides: Sequence[str] = (), kind: Any = Config) -> Any:
    """Reads a config; without a path, the embedded default (``demo.yaml``).

    Args:
        path: YAML file.
        overrides: ``dotted.key=value``, the value in YAML; a number in the key is a list index.
        kind: Another stage's config, which extends that of pre-training.

    Raises:
        DiptychError: Lists every problem with its path and, for an unknown key, the nearest known one.
    """
    tree = yaml_file.read_mapping(path or Path(__file__).parents[1] / "demo.yaml", "sections")
    problems = [problem for override in overrides if (problem := _apply(tree, override))]
    try:
        config = yaml_file.validate(kind, tree)
    except ValidationError as error:
        problems += [_describe(item, kind) for item in error.errors()]
        # Rules between valid sections; a rule that names an invalid section would see its default.
        broken = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        with suppress(ValidationError):  # a section that must be given is broken
            sound = yaml_file.validate(kind, {name: section for name, section in tree.items() if name not in broken})
            problems += [
                problem for problem in contradictions(sound) if not any(f"{section}." in problem for section in broken)
            ]
    else:
        problems += list(contradictions(config))
    refuse(problems, path)
    return config


def split_arguments(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Splits ``[CONFIG.yaml] key=value ...`` into the path and the overrides."""
    if argv and (argv[0].endswith((".yaml", ".yml")) or "=" not in argv[0]):
        return Path(argv[0]), list(argv[1:])
    return None, list(argv)


def dump_config(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back."""
    tree = config.model_dump(mode="json", by_alias=True)
    if config.model.path is not None:  # the model there has its own, and a config that names both is refused
        del tree["model"]["type"], tree["model"]["fields"]
    return yaml_file.dump(tree)


def identity(config: Config) -> dict[str, Any]:
    """The settings that identify a run, as flat dotted keys: all but those that a resumption may change.

    Paths of files are left out, because contents are compared by fingerprint.
    """
    settings = {key: value for key, value, field in _leaves(config) if not _is_free(field)}
    data = config.data
    settings["data.sources"] = [source.settings() for source in data.sources]
    settings["data.heldout_sources"] = [source.settings() for source in data.heldout_sources]
    settings["data.decontamination.sources"] = [source.settings() for source in data.decontamination.sources]
    del settings["tokenizer.path"]
    return settings


def settings_help(kind: type[Config] = Config) -> str:
    """Every setting of a stage with its default and meaning, one line each."""
    lines = []
    for key, default, field in _leaves(kind()):
        shown = yaml_file.dump_line(default)
        lines.append(f"  {key} = {shown}\n      {field.description}")
    for name, model in _source_types().items():
        lines.append(f"\nSettings of a source with type: {name}\n")
        for key, field in model.model_fields.items():
            if key != "type":
                default = "(needed)" if field.is_required() else field.get_default(call_default_factory=True)
                lines.append(f"  {key} = {default}\n      {field.description}")
    return "\n".join(lines)


def _leaves(section: BaseModel, prefix: str = "", inherited: bool = False) -> Iterator[tuple[str, Any, FieldInfo]]:
    for name, field in type(section).model_fields.items():
        key = f"{prefix}{field.alias or name}"
        value = getattr(section, name)
        free = inherited or _is_free(field)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{key}.", free)
        else:
            dumped = section.model_dump(mode="json", include={name})[name]
            if free and not _is_free(field):
                field = FieldInfo(description=field.description, json_schema_extra={"free_on_resume": True})
            yield key, dumped, field


def _is_free(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("free_on_resume"))


def _apply(tree: dict[str, Any], override: str) -> str | None:
    """Sets one ``key=value`` in the tree; returns what is wrong with it, or None."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        return f"{override!r}: expected key=value, e.g. train.steps=100"
    try:
        value = yaml_file.parse(text)
    except yaml.YAMLError:
        return f"{key}: {text!r} is no valid YAML value"
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:  # not there, or a section without content
                node[part] = {}
            node = node[part]
        else:
            return f"{key}: no such place in the config"
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        return f"{key}: no such place in the config"
    return None


def _describe(error: Any, kind: type[Config]) -> str:
    """One pydantic error as ``path: what is wrong``."""
    parts = error["loc"]  # pydantic puts the type of a source behind its number
    location = [
        part
        for before, part in zip((None, *parts), parts, strict=False)
        if not (isinstance(before, int) and part in _source_tags())
    ]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1], kind)
        # A known key in the wrong section is more likely than a misspelt key in the right one.
        elsewhere = [path for path, _, _ in _leaves(kind()) if path.rpartition(".")[2] == str(error["loc"][-1])]
        if elsewhere:
            return f"{key}: unknown key; did you mean {elsewhere[0]}?"
        near = nearest(str(error["loc"][-1]), known)
        prefix = key.rpartition(".")[0]
        if near:
            return f"{key}: unknown key; did you mean {prefix + '.' if prefix else ''}{near}?"
        return f"{key}: unknown key; known here: {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input", PydanticUndefined)
    if not key:  # a rule of the whole config, which names its place itself
        return str(message)
    shown = "" if given is PydanticUndefined or isinstance(given, dict | BaseModel) else f" (given {given!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


def _source_types() -> dict[str, type[BaseModel]]:
    """Source models by their tag."""
    union = Config.model_fields["data"].annotation.model_fields["sources"].annotation  # type: ignore[union-attr]
    annotated = get_args(union)[0]
    members = get_args(get_args(annotated)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


def _source_tags() -> set[str]:
    return set(_source_types())


def _known_keys(location: Sequence[Any], kind: type[Config]) -> list[str]:
    """The keys of the section at a pydantic error location."""
    model: Any = kind
    for part in location:
        if part in _source_types():
            model = _source_types()[part]
        elif isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part) or next(
                (candidate for candidate in model.model_fields.values() if candidate.alias == part), None
            )
            model = field.annotation if field else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []
