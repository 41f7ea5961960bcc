"""Looks through Python code for what could run a file's or a network's contents as code, or open a door to the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
NAMES = {
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.Loader", "yaml.CLoader", "yaml.UnsafeLoader", "yaml.CUnsafeLoader", "yaml.FullLoader", "yaml.CFullLoader",
    "torch.load", "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "tempfile.mktemp",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"numpy.load"}
SERVERS = {"bind", "create_server", "start_server", "TCPServer", "UDPServer", "ThreadingTCPServer", "HTTPServer", "ThreadingHTTPServer",
           "SimpleXMLRPCServer", "make_server"}
NETWORK = {"socket", "socketserver", "http", "asyncio", "wsgiref", "xmlrpc"}
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Finding(NamedTuple):
    """Where, and what is wrong there."""

    line: int
    what: str


class _Names(ast.NodeVisitor):
    """What each imported name stands for, wherever in the file it is imported."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {"__builtins__": "builtins"}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.of[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if node.module and not node.level:
                self.of[alias.asname or alias.name] = f"{node.module}.{alias.name}"


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """What an expression names, e.g. `numpy.load` for `np.load` or `getattr(np, "load")`; empty for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, f"builtins.{node.id}" if node.id in BUILTINS or node.id == "getattr" else "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    if isinstance(node, ast.Call):
        called, given = dotted(node.func, names), [a.value if isinstance(a, ast.Constant) else None for a in node.args]
        if called == "builtins.getattr" and len(node.args) > 1 and isinstance(given[1], str):
            owner = dotted(node.args[0], names)
            return f"{owner}.{given[1]}" if owner else ""
        if called in ("importlib.import_module", "builtins.__import__") and given and isinstance(given[0], str):
            return given[0]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):  # vars(builtins)["eval"], __builtins__["eval"]
        inside = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
        owner = dotted(inside, names).removesuffix(".__dict__")
        return f"{owner}.{node.slice.value}" if owner else ""
    return ""


def _literal(node: ast.Call, keyword: str) -> object:
    """The literal value of a keyword; `...` when it is not given, None when it is no literal."""
    for given in node.keywords:
        if given.arg == keyword:
            return given.value.value if isinstance(given.value, ast.Constant) else None
    return ...


def _of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    whole = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if not node.level else []
    for module in whole:
        if module.split(".")[0] in MODULES:
            yield f"imports {module}"
    if isinstance(node, ast.ImportFrom) and not node.level and any(alias.name == "*" for alias in node.names):
        module = (node.module or "").split(".")[0]
        if any(name.split(".")[0] == module for name in NAMES | LOADERS):
            yield f"imports everything of {module}, names that are not allowed among it"


def _of_call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = dotted(node.func, names)
    if name in LOADERS and _literal(node, "allow_pickle") is not False:
        yield f"{name} without allow_pickle=False"
    if name.split(".")[0] in ("subprocess", "asyncio") and _literal(node, "shell") not in (..., False):
        yield f"{name} with a shell"
    if name in ("importlib.import_module", "builtins.__import__") and dotted(node, names).split(".")[0] in MODULES:
        yield f"imports {dotted(node, names)}"
    last = node.func.attr if isinstance(node.func, ast.Attribute) else name.rsplit(".", 1)[-1]
    if last in SERVERS and NETWORK & {module.split(".")[0] for module in names.values()}:
        yield from _of_address(node, last)


def _of_address(node: ast.Call, what: str) -> Iterator[str]:
    first = node.args[0] if node.args else None
    hosts = [first.elts[0]] if isinstance(first, ast.Tuple) and first.elts else []
    hosts += [given.value for given in node.keywords if given.arg == "host"]
    if what in ("start_server", "make_server"):
        hosts += node.args[int(what == "start_server"):][:1]
    if not hosts or not all(isinstance(host, ast.Constant) and host.value in LOOPBACK for host in hosts):
        yield f"{what} on an address that is not written as this machine's own ({', '.join(sorted(LOOPBACK))})"


def findings(code: str) -> list[Finding]:
    """What is not allowed in a Python text.

    Args:
        code: of a whole file.

    Returns:
        Each place once, in order of lines.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(code)
    names = _Names()
    names.visit(tree)
    found: set[Finding] = set()
    for node in ast.walk(tree):
        said: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            said += _of_import(node)
            if isinstance(node, ast.ImportFrom) and not node.level:
                said += [f"imports {name}" for alias in node.names if (name := f"{node.module}.{alias.name}") in NAMES]
        if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) and (name := dotted(node, names.of)) in NAMES:
            said.append(f"names {name}")
        if isinstance(node, ast.Call):
            said += _of_call(node, names.of)
        found |= {Finding(getattr(node, "lineno", 0), what) for what in said}
    return sorted(found)
