#!/usr/bin/python3
"""Fills ordinal(1): man_commands.py TEMPLATE ORDINAL prints TEMPLATE with @COMMANDS@ replaced by what `ORDINAL COMMAND --help` says of each
command, so that the page cannot fall behind the program.
"""

import re
import subprocess
import sys


def said(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def roff(line):
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line.startswith((".", "'")) else line


def main(template, ordinal):
    out = []
    for command in re.findall(r"^  ([a-z]+)  ", said(ordinal, "--help"), flags=re.M):
        out += [f".SS ordinal {command}", ".nf", *map(roff, said(ordinal, command, "--help").rstrip().split("\n")), ".fi"]
    with open(template, encoding="utf-8") as f:
        sys.stdout.write(f.read().replace("@COMMANDS@\n", "\n".join(out) + "\n"))


if __name__ == "__main__":
    main(*sys.argv[1:])
