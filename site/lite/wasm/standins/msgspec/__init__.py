"""What msgspec is to the library: the WebAssembly Python of the tests has none. Slow, and with words of its own."""

import dataclasses
import types
import typing
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Union, dataclass_transform


class DecodeError(ValueError):
    """No JSON."""


class ValidationError(DecodeError):
    """A value of another type."""


class Raw(bytes):
    """JSON that is decoded later."""


class Meta:
    """Limits of a value."""

    def __init__(self, **limits: Any):
        self.limits = limits

    def check(self, value: Any) -> None:
        """ValidationError if the value is beyond one."""
        for name, limit in self.limits.items():
            size = len(value) if name.endswith("_length") else value
            if size < limit if name in ("ge", "min_length") else size > limit:
                raise ValidationError(f"expected {name} {limit}, got {value!r}")


def field(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING, name: str = "") -> Any:
    """A field of a Struct."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"name": name})


@dataclass_transform(field_specifiers=(field,))
class Struct:
    """A frozen dataclass, or one that is not."""

    def __init_subclass__(
        cls,
        frozen: bool = False,
        forbid_unknown_fields: bool = False,
        omit_defaults: bool = False,
        kw_only: bool = False,
        tag_field: str = "",
        tag: str = "",
    ):
        for name, default in list(vars(cls).items()):
            if isinstance(default, dict | list | set) and not name.startswith("__"):
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        cls.__struct_config__ = SimpleNamespace(
            forbid_unknown_fields=forbid_unknown_fields, omit_defaults=omit_defaults, tag_field=tag_field, tag=tag
        )
        dataclasses.dataclass(frozen=frozen, kw_only=kw_only)(cls)


def convert(value: Any, type: Any, *, strict: bool = True, str_keys: bool = False) -> Any:
    """The value as one of this type. ValidationError if it is of another."""
    origin, arguments = typing.get_origin(type), typing.get_args(type)
    if type is Any:
        return value
    if origin is Annotated:
        found = convert(value, arguments[0])
        for limits in arguments[1:]:
            if isinstance(limits, Meta):
                limits.check(found)
        return found
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments)
    if origin is Literal:
        return _of(value in arguments, value, type)
    if dataclasses.is_dataclass(type):
        return value if isinstance(value, type) else _record(value, type)
    return _plain(value, origin or type, arguments)


def to_builtins(value: Any) -> Any:
    """The value in dictionaries, lists and what JSON has besides."""
    if dataclasses.is_dataclass(value):
        config, found = getattr(value, "__struct_config__", None), {}
        if config is not None and config.tag:
            found[config.tag_field] = config.tag
        for each in dataclasses.fields(value):
            of = getattr(value, each.name)
            if config is None or not config.omit_defaults or of != each.default:
                found[_name(each)] = to_builtins(of)
        return found
    if isinstance(value, dict):
        return {key: to_builtins(of) for key, of in value.items()}
    return [to_builtins(of) for of in value] if isinstance(value, list | tuple | set) else value


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    tagged = [c for c in choices if getattr(getattr(c, "__struct_config__", None), "tag", "")]
    if tagged and isinstance(value, dict):
        for choice in tagged:
            if value.get(choice.__struct_config__.tag_field) == choice.__struct_config__.tag:
                return convert(value, choice)
        raise ValidationError(f"invalid value {value.get(tagged[0].__struct_config__.tag_field)!r}")
    for choice in choices:
        try:
            return convert(value, choice)
        except ValidationError as error:
            last = error
    raise last


def _record(value: Any, type: Any) -> Any:
    _of(isinstance(value, dict), value, type)
    config = getattr(type, "__struct_config__", None)
    known = {_name(each): each for each in dataclasses.fields(type) if each.init}
    unknown = value.keys() - known.keys() - {getattr(config, "tag_field", "")}
    if unknown and config is not None and config.forbid_unknown_fields:
        raise ValidationError(f"object contains unknown field `{min(unknown)}`")
    hints, found = typing.get_type_hints(type, include_extras=True), {}
    for name, each in known.items():
        if name in value:
            found[each.name] = convert(value[name], hints[each.name])
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ValidationError(f"object missing required field `{name}`")
    try:
        return type(**found)
    except (ValueError, TypeError) as error:
        raise ValidationError(str(error)) from error


def _plain(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if kind in (list, set, tuple) or getattr(kind, "__name__", "") in ("Sequence", "Collection"):
        _of(isinstance(value, list | tuple), value, kind)
        if kind is tuple and arguments and arguments[-1] is not ...:
            _of(len(value) == len(arguments), value, kind)
            return tuple(map(convert, value, arguments))
        items = [convert(each, arguments[0] if arguments else Any) for each in value]
        return kind(items) if kind in (list, set, tuple) else items
    if kind is dict or getattr(kind, "__name__", "") == "Mapping":
        _of(isinstance(value, dict), value, kind)
        of_key, of_value = arguments or (Any, Any)
        convert_key = int if of_key is int else lambda key: convert(key, of_key)
        return {convert_key(key): convert(each, of_value) for key, each in value.items()}
    if kind is Raw:
        from .json import encode

        return Raw(encode(value))
    if kind is float and type(value) is int:
        return float(value)
    kind = type(None) if kind is None else kind
    return _of(type(value) is kind or (kind is not int and isinstance(value, kind)), value, kind)


def _of(right: bool, value: Any, kind: Any) -> Any:
    if not right:
        raise ValidationError(f"expected `{getattr(kind, '__name__', kind)}`, got `{type(value).__name__}`")
    return value


def _name(each: Any) -> str:
    return each.metadata.get("name") or each.name


from . import json, structs  # noqa: E402, F401
