"""The messages of ordinal.v1, from ordinal.proto.

They are generated code, and not kept with the sources: `make python` writes build/python/ordinal_pb2.py; where that is missing or older than the
.proto, it is generated at import, into a directory that goes away again. An installed package has it beside this file.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
_PROTOS = os.path.join(_ROOT, "rpc", "proto")
_PROTO = os.path.join("ordinal", "v1", "ordinal.proto")
_PLACES = [os.path.join(_HERE, "ordinal_pb2.py"), os.path.join(_ROOT, "build", "python", "ordinal", "v1", "ordinal_pb2.py")]


def _load(path):
    spec = importlib.util.spec_from_file_location(__package__ + ".ordinal_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_current(path):
    source = os.path.join(_PROTOS, _PROTO)
    return os.path.exists(path) and (not os.path.exists(source) or os.path.getmtime(path) >= os.path.getmtime(source))


def _generate():
    with tempfile.TemporaryDirectory(prefix="ordinal-") as out:
        done = subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTOS}", f"--python_out={out}", _PROTO],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImportError(f"no generated code for {_PROTO}: run `make python` in the source tree, or install grpcio-tools "
                              f"({done.stderr.strip()})")
        return _load(os.path.join(out, "ordinal", "v1", "ordinal_pb2.py"))


def _messages():
    for path in _PLACES:
        if _is_current(path):
            return _load(path)
    return _generate()


pb = _messages()
