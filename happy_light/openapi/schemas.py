"""JSON schemas of the structs that travel."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from happy_light.wire import Outgoing

REF: Final = "#/components/schemas/"

Schema = dict[str, Any]


class Schemas:
    """The JSON schemas of some types; `components` are those of all structs that they are made of."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        members = [member for kind in kinds if kind is not None for member in members_of(kind)]
        structs = _structs_in(members)
        known = list(dict.fromkeys([*members, *structs]))
        schemas, self.components = msgspec.json.schema_components(known, ref_template=REF + "{name}")
        self._known = dict(zip(known, schemas, strict=True))
        for struct in structs:
            component = self.components[self.name(struct)]
            component.pop("title", None)
            description = first_paragraph(struct)
            if description:
                component["description"] = description
            if issubclass(struct, Outgoing):
                component["required"] = list(dict.fromkeys([*component["required"], *_always_sent(struct)]))

    def name(self, struct: type[Any]) -> str:
        """Return the name of a struct's component."""
        ref: str = self._known[struct]["$ref"]
        return ref.removeprefix(REF)

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type: structs by reference, unions of structs as a choice."""
        found = [self._known[member] for member in members_of(kind)]
        return found[0] if len(found) == 1 else {"anyOf": found}


def members_of(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself, because msgspec cannot describe unions of untagged structs."""
    if get_origin(kind) is Annotated:
        return members_of(get_args(kind)[0])
    return list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]


def tagged_structs(tag_field: str) -> dict[str, type[Any]]:
    """Return every struct of updates ("t") or ephemerals ("type"), by its tag."""
    found = {}
    for struct in Outgoing.__subclasses__():
        config = struct.__struct_config__
        if config.tag_field == tag_field and (tag_field == "type" or struct.__name__.endswith("Update")):
            found[str(config.tag)] = struct
    return dict(sorted(found.items()))


def first_paragraph(thing: Any) -> str:
    """Return the first paragraph of a docstring on one line; what follows it is for readers of the code."""
    text: str = (thing.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(text.split())


def _structs_in(kinds: Iterable[Any]) -> list[type[Any]]:
    """Return the structs among these types and everything that they are made of."""
    found: dict[type[Any], None] = {}

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found[kind] = None
            for hint in get_type_hints(kind).values():
                visit(hint)
        for part in get_args(kind):
            visit(part)

    for kind in kinds:
        visit(kind)
    return list(found)


def _always_sent(struct: type[Any]) -> list[str]:
    """Return the fields that every answer has: defaults are sent too, only UNSET is left out."""
    return [field.encode_name for field in msgspec.structs.fields(struct) if field.default is not msgspec.UNSET]
