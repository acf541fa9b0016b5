#!/usr/bin/python3
"""Writes compile_commands.json, for editors and clang tools.  compile_commands.py 'COMPILE COMMAND' SOURCE..."""

import json
import os
import shlex
import sys

entries = [{"directory": os.getcwd(), "file": source, "arguments": shlex.split(sys.argv[1]) + ["-c", source]} for source in sys.argv[2:]]
with open("compile_commands.json", "w", encoding="utf-8") as f:
    json.dump(entries, f, indent=1)
    f.write("\n")
