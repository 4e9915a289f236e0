"""A taxonomy file's text as data, with the line of each label: YAML, loaded safely."""

from __future__ import annotations

from typing import Any

import yaml

from schemas.errors import TaxonomyError


def load_taxonomy_text(text: str, source: str) -> tuple[Any, list[int]]:
    """Return the parsed document and the line of each entry of `labels`.

    Raises:
        TaxonomyError: it is not YAML, or no mapping.
    """
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise TaxonomyError([_describe_yaml(error, text, source)]) from None
    except RecursionError:
        raise TaxonomyError([f"{source}: nested too deeply"]) from None
    if not isinstance(data, dict):
        raise TaxonomyError([f"{source}: expected a mapping with `name` and `labels`, got {type(data).__name__}"])
    return data, _label_lines(node)


class _StrictLoader(yaml.SafeLoader):
    """Loads safely, and refuses a key that stands twice: YAML's own way is to keep the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", mark)
        return dict(super().construct_mapping(node, deep))


def _describe_yaml(error: yaml.YAMLError, text: str, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{source}: not valid YAML: {error}"
    lines = text.splitlines()
    braces = mark.line < len(lines) and "{}" in lines[mark.line]
    hint = "; a template with {} needs quotes" if braces else ""
    return f"{source}:{mark.line + 1}: not valid YAML: {getattr(error, 'problem', None) or error}{hint}"


def _label_lines(node: yaml.Node | None) -> list[int]:
    if not isinstance(node, yaml.MappingNode):
        return []
    for key, value in node.value:
        if key.value == "labels" and isinstance(value, yaml.SequenceNode):
            return [item.start_mark.line + 1 for item in value.value]
    return []
