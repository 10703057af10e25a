"""What a text of Python defines at module level, and what of it can be a loss or a task; nothing of it is run."""

import ast
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["loss", "task"]

# A loss is called with these: (output, target).
_ARGUMENTS_OF_A_LOSS = 2
# The functions of a task, some of which a base class may have; the docstring of `parity.tasks` describes them.
PROTOCOL = ("data", "model", "optimizer", "batch", "forward", "loss")
# What is allowed, for messages.
WHAT: dict[Kind, str] = {
    "loss": "A loss is a function (output, target), an nn.Module (class or instance) or an autograd.Function subclass.",
    "task": f"A task is a class or an object with the functions {', '.join(PROTOCOL)}.",
}
# Expressions whose value can be neither called nor a task.
_DISPLAYS = frozenset({ast.Dict, ast.List, ast.Set, ast.Tuple})


@dataclass(frozen=True)
class Definitions:
    """The names that a text binds at module level.

    Attributes:
        names: All of them; "*" for a star import.
        statements: For each name that is bound once, and not within a condition or a loop, the statement.
        lines: For each name the line of the last statement that binds it.
    """

    names: frozenset[str]
    statements: Mapping[str, ast.stmt] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def may_have(self, name: str) -> bool:
        """Whether the text may define a name: it does, or has what may define any."""
        return bool({name, "*", "__getattr__"} & self.names)

    def candidates(self, kind: Kind) -> tuple[str, ...]:
        """The public names that can be a loss, or a task, sorted."""
        public = (name for name in self.names if not name.startswith("_") and name != "*")
        return tuple(sorted(name for name in public if self._is_candidate(name, kind)))

    def unfit(self, name: str, kind: Kind) -> str | None:
        """Why a name can certainly not be a loss or a task, in words such as "the number 3"; None if it may be one."""
        statement = self.statements.get(name)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and (value := statement.value):
            if isinstance(value, ast.Constant):
                return f"the constant {ast.unparse(value)}"
            if type(value) in _DISPLAYS:
                return f"a {type(value).__name__.lower()}"
        if kind == "task":
            return None
        if isinstance(statement, ast.ClassDef) and not statement.decorator_list and not self._has_base(statement):
            return f"the class {name}, which has no base class"
        if isinstance(statement, ast.ClassDef) and (needed := _needed_to_make(statement)):
            return f"the class {name}, which cannot be made without {', '.join(needed)}"
        return None

    def _is_candidate(self, name: str, kind: Kind) -> bool:
        """Whether a name is worth proposing: defined here, and not certainly something else."""
        statement = self.statements.get(name)
        if statement is None or self.unfit(name, kind):
            return False
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            # An instance, a lambda, or `apply` of a class; not a list, a text or a sum.
            return isinstance(statement.value, ast.Call | ast.Lambda | ast.Attribute) and not name.isupper()
        if kind == "task":
            return isinstance(statement, ast.ClassDef) and (
                self._has_base(statement) or bool({*PROTOCOL} & _methods(statement))
            )
        if isinstance(statement, ast.FunctionDef):
            # A decorator may make anything of it.
            return bool(statement.decorator_list) or _takes_two(statement.args)
        return isinstance(statement, ast.ClassDef)

    def _has_base(self, statement: ast.ClassDef) -> bool:
        """Whether a class, or one of this text that it is derived from, has a base class of elsewhere."""
        bases = [base.id if isinstance(base, ast.Name) else "" for base in statement.bases if _name(base) != "object"]
        found = [self.statements.get(base) for base in bases]
        return any(
            self._has_base(base) if isinstance(base, ast.ClassDef) and base is not statement else True for base in found
        )


@functools.lru_cache(maxsize=8)
def definitions_of(source: str) -> Definitions:
    """What a text defines at module level; kept, since many losses may come from one file.

    Raises:
        SyntaxError: The text is not valid Python.
    """
    body = ast.parse(source).body
    bound = Counter(_bound_names(body))
    statements = {name: statement for statement in body for name in _bound_at_once(statement) if bound[name] == 1}
    lines = {name: statement.lineno for statement in body for name in _bound_names([statement])}
    return Definitions(frozenset(bound), statements, lines)


def _bound_at_once(statement: ast.stmt) -> Iterator[str]:
    """Yields the names that a function, a class or a plain assignment binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _bound_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yields the names that a module's statements bind at module level, and "*" for a star import."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # What its body binds belongs to the function or class, and not to the module.
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
        # `walk` finds names that are assigned at any depth; functions, classes and imports inside of if, try, with and
        # loops are found here.
        for name in ("body", "orelse", "finalbody"):
            yield from _bound_names(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from _bound_names(handler.body)


def _needed_to_make(statement: ast.ClassDef) -> list[str]:
    """The arguments without a default of the `__init__` that a class has itself."""
    if statement.decorator_list:
        return []
    made = [each for each in statement.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    if len(made) != 1 or made[0].decorator_list:
        return []
    found = made[0].args
    positional = [*found.posonlyargs, *found.args]
    needed = positional[1 : len(positional) - len(found.defaults)]
    keyword = [each for each, default in zip(found.kwonlyargs, found.kw_defaults, strict=True) if default is None]
    return [each.arg for each in (*needed, *keyword)]


def _takes_two(found: ast.arguments) -> bool:
    """Whether a function can be called with two positional arguments and no others."""
    positional = len(found.posonlyargs) + len(found.args)
    most = positional if found.vararg is None else max(positional, _ARGUMENTS_OF_A_LOSS)
    return positional - len(found.defaults) <= _ARGUMENTS_OF_A_LOSS <= most and all(
        default is not None for default in found.kw_defaults
    )


def _methods(statement: ast.ClassDef) -> set[str]:
    return {each.name for each in statement.body if isinstance(each, ast.FunctionDef)}


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
