"""The messages of ordinal.v1, from ordinal.proto and stats.proto.

They are generated code, and not kept with the sources: `make python` writes them into build/python/ordinal/v1; where one is missing or older than its
.proto, it is generated at import, into a directory that goes away again. An installed package has them beside this file.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
_PROTOS = os.path.join(_ROOT, "rpc", "proto")
_V1 = os.path.join("ordinal", "v1")
_PLACES = [_HERE, os.path.join(_ROOT, "build", "python", _V1)]


def _load(path):
    spec = importlib.util.spec_from_file_location(f"{__package__}.{os.path.basename(path)[:-3]}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_current(path, proto):
    source = os.path.join(_PROTOS, proto)
    return os.path.exists(path) and (not os.path.exists(source) or os.path.getmtime(path) >= os.path.getmtime(source))


def _generate(name):
    proto = os.path.join(_V1, f"{name}.proto")
    with tempfile.TemporaryDirectory(prefix="ordinal-") as out:
        done = subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTOS}", f"--python_out={out}", proto],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImportError(f"no generated code for {proto}: run `make python` in the source tree, or install grpcio-tools "
                              f"({done.stderr.strip()})")
        return _load(os.path.join(out, _V1, f"{name}_pb2.py"))


def _messages(name):
    for place in _PLACES:
        path = os.path.join(place, f"{name}_pb2.py")
        if _is_current(path, os.path.join(_V1, f"{name}.proto")):
            return _load(path)
    return _generate(name)


pb = _messages("ordinal")
pb_stats = _messages("stats")
