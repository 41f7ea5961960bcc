"""No code of this product runs what a file or a peer says, and no socket leaves this machine; the checker of it finds each way."""

from __future__ import annotations

from pathlib import Path

import pytest
from safe_code import findings

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mbrl_control", "sim", "calibration", "ros2_ws")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if not {"build", "install", "log"} & set(path.parts))


def test_all_packages_are_looked_at():
    seen = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert seen >= {folder for folder in FOLDERS if (ROOT / folder).exists()} >= {"mbrl_control", "sim", "ros2_ws"}
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_product_has_nothing_of_it(path):
    assert findings(path.read_text("utf-8")) == []


@pytest.mark.parametrize("code", [
    "import pickle", "import pickle as p", "import _pickle", "import marshal", "import shelve", "import dill", "import cloudpickle",
    "import joblib",
    "from pickle import loads", "from pickle import loads as read", "import joblib.externals", "from joblib.externals import x",
    "def f():\n    import pickle", "import importlib\nimportlib.import_module('pickle')",
    "from importlib import import_module as m\nm('dill')",
    "__import__('marshal')", "__import__(x)",
    "eval('1')", "exec(text)", "compile(a, b, 'exec')", "run = eval", "import builtins\nbuiltins.eval('1')",
    "import builtins as b\nb.exec('1')",
    "from builtins import eval as calculate", "import builtins\ngetattr(builtins, 'eval')('1')", "__builtins__['eval']('1')",
    "__builtins__.exec('')",
    "import builtins\nvars(builtins)['exec']('1')", "import builtins\nbuiltins.__dict__['eval']('1')", "map(eval, texts)",
    "import yaml\nyaml.load(t)", "import yaml as y\ny.load(t, Loader=y.SafeLoader)", "from yaml import load",
    "from yaml import unsafe_load as safe",
    "import yaml\nyaml.unsafe_load(t)", "import yaml\nyaml.full_load(t)", "import yaml\nyaml.load_all(t)",
    "import yaml\nclass L(yaml.FullLoader): pass",
    "import yaml\ngetattr(yaml, 'load')(t)", "from yaml import *",
    "import torch\ntorch.load(p)", "import torch\ntorch.load(p, weights_only=True)", "from torch import load",
    "import torch as t\nt.jit.load(p)",
    "import torch.jit\ntorch.load(p)",
    "import numpy as np\nnp.load(p)", "import numpy as np\nnp.load(p, allow_pickle=True)", "import numpy\nnumpy.load(p, allow_pickle=x)",
    "from numpy import load\nload(p)", "from numpy import load as l\nl(p)", "import pandas as pd\npd.read_pickle(p)",
    "import subprocess\nsubprocess.run(c, shell=True)", "import subprocess as s\ns.Popen(c, shell=x)",
    "from subprocess import call as c\nc(d, shell=True)",
    "import subprocess\nsubprocess.getoutput(c)", "import os\nos.system(c)", "import os\nos.popen(c)", "from os import system as s",
    "from os import *",
    "import asyncio\nasyncio.create_subprocess_shell(c)", "import tempfile\ntempfile.mktemp()", "from tempfile import mktemp",
    "import socket\nsocket.socket().bind(('0.0.0.0', 1))", "import socket\ns.bind(('', 1))", "import socket\ns.bind((host, 1))",
    "import socket\ns.bind(address)", "from socket import socket\nsocket().bind(('::', 1))", "import socket\nsocket.create_server(('', 1))",
    "import http.server\nhttp.server.HTTPServer(('', 1), H)", "from http.server import HTTPServer\nHTTPServer(('0.0.0.0', 1), H)",
    "import asyncio\nasyncio.start_server(f, '0.0.0.0', 1)", "import asyncio\nasyncio.start_server(f, port=1)",
    "import socketserver\nsocketserver.TCPServer(('', 1), H)",
])
def test_each_way_is_found(code):
    assert findings(code), code


@pytest.mark.parametrize("code", [
    "import re\nre.compile('x')", "model.eval()", "import torch\ntorch.compile(f)", "from . import load\nload(p)", "from .pickle import x",
    "import json\njson.load(f)", "import yaml\nyaml.safe_load(t)", "import yaml\nyaml.parse(t, Loader=yaml.SafeLoader)", "store.load(1)",
    "import numpy as np\nnp.load(p, allow_pickle=False)", "import subprocess\nsubprocess.run([a, b])",
    "import subprocess\nsubprocess.run(c, shell=False)",
    "import os\nos.execv(a, b)", "import tempfile\ntempfile.mkstemp()", "import socket\ns.bind(('127.0.0.1', 1))", "key.bind(widget)",
    "import asyncio\nasyncio.start_server(f, '127.0.0.1', 1)", "import importlib\nimportlib.import_module(name)", "getattr(x, 'eval')()",
    "'eval(1)'",
    "import http.server\nhttp.server.HTTPServer(('127.0.0.1', 1), H)",
])
def test_what_is_harmless_is_let_through(code):
    assert findings(code) == []


def test_a_finding_tells_the_line():
    assert findings("import os\n\nos.system('x')") == [(3, "names os.system")]
