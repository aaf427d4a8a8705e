"""Copies of nested dictionaries and lists in which one entry is changed."""

import copy


def changed(value, path, new):
    """A copy of `value` with `new` at a path such as "records.0.step". If `new` is `...`, the entry is removed."""
    value = copy.deepcopy(value)
    inner, *names = value, *path.split(".")
    for name in names[:-1]:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if new is ...:
        del inner[names[-1]]
    else:
        inner[int(names[-1]) if isinstance(inner, list) else names[-1]] = new
    return value
