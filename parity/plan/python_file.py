"""Python files as text, and the imports that fail in a file that is loaded by its path."""

import ast
from pathlib import Path


def python_text(content: bytes) -> str:
    r"""The text of a Python file in UTF-8, without the mark U+FEFF that some editors put before it.

    Raises:
        UnicodeDecodeError: It is not in UTF-8.

    >>> python_text(b"\xef\xbb\xbfx = 1")
    'x = 1'
    """
    return content.decode("utf-8-sig")


def relative_import(source: str) -> int | None:
    r"""The line of the first relative import that runs whenever the file is loaded; None if there is none.

    >>> relative_import("import a\nfrom .b import c"), relative_import("def f():\n    from . import b")
    (2, None)
    """
    if "__package__" in source:  # the file may say itself what package it is in
        return None
    return next(
        (each.lineno for each in ast.parse(source).body if isinstance(each, ast.ImportFrom) and each.level), None
    )


def package_of(path: Path) -> tuple[Path, str] | None:
    """The folder from which a file of a package is imported, and the name of its module; None if it is in no package.

    Args:
        path: The absolute path of the file.
    """
    names = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return (folder, ".".join(names)) if folder != path.parent else None
