#!/usr/bin/python3
"""Turns Kconfig into C: the struct config, the table of options, the build's flags, and the installed configuration file.

  gen.py build KCONFIG DOTCONFIG VERSION OUTDIR   config_gen.h, config_table.c and config.mk into OUTDIR
  gen.py defconfig KCONFIG DOTCONFIG              writes DOTCONFIG with every option at its default
  gen.py conf KCONFIG DOTCONFIG                   prints the runtime options with their help, to install as ordinal.conf
  gen.py man KCONFIG DOTCONFIG                    prints the manual page ordinal.conf(5)

DOTCONFIG need not exist (all defaults) except as an output. Any doubt about it is an error: an option that does not exist, a value out of range,
an enumeration whose string and whose choice disagree.
"""

import os
import re
import sys

try:
    import kconfiglib
except ImportError:
    sys.exit("gen.py: the Debian package python3-kconfiglib is missing (`make deps` installs what the build needs)")

BUILD_MENU = "Build"
LIVE_LINE = "Takes effect on reload."
POW2_LINE = "A power of two."
# Enumerations whose C constants belong to a module that existed without the configuration.
FOREIGN_ENUMS = {"LOG_LEVEL": "core/base/log.h"}
KINDS = {kconfiglib.BOOL: "bool", kconfiglib.INT: "int", kconfiglib.STRING: "string"}


class Option:
    """One key, as the daemon knows it."""

    def __init__(self, sym, node, menu, build):
        self.key = sym.name
        self.sym = sym
        self.menu = menu
        self.build = build
        self.field = sym.name.lower()
        self.help = re.sub(r"\s*\n\s*", "\n", node.help or "").strip()
        self.members = enum_members(sym)
        self.kind = "enum" if self.members else KINDS.get(sym.orig_type)
        self.prompt = (self.members[0][1].choice.nodes[0].prompt if self.members else node.prompt)[0]
        lines = self.help.split("\n")
        self.live = LIVE_LINE in lines
        self.pow2 = POW2_LINE in lines
        if self.kind is None:
            fail(f"{self.key}: only bool, int and string options are understood")
        if not self.help:
            fail(f"{self.key}: has no help")
        if build and self.kind != "bool":
            fail(f"{self.key}: build options are bool")
        if self.kind == "int":
            (low, high, _), = sym.ranges or fail(f"{self.key}: has no range")
            self.min, self.max = int(low.str_value), int(high.str_value)
        else:
            self.min = self.max = 0

    def value(self):
        if self.members:
            return [word for word, _ in self.members].index(self.sym.str_value)
        if self.kind == "bool":
            return int(self.sym.str_value == "y")
        return int(self.sym.str_value) if self.kind == "int" else self.sym.str_value


def fail(why):
    sys.exit(f"gen.py: {why}")


def enum_members(sym):
    """[(word, choice member)] of a promptless string with one conditional default for each member of a choice."""
    if sym.orig_type != kconfiglib.STRING or sym.nodes[0].prompt:
        return []
    members = [(value.str_value, cond) for value, cond in sym.defaults]
    for word, cond in members:
        if not isinstance(cond, kconfiglib.Symbol) or not cond.choice or cond.name != f"{sym.name}_{word.upper()}":
            fail(f"{sym.name}: default \"{word}\" must be conditional on the choice member {sym.name}_{word.upper()}")
    if not members or {m for _, m in members} != set(members[0][1].choice.syms):
        fail(f"{sym.name}: a promptless string must list every member of its choice")
    return members


def load(kconfig, dotconfig):
    kconf = kconfiglib.Kconfig(kconfig, warn_to_stderr=False)
    kconf.warn_assign_undef = True
    if dotconfig and os.path.exists(dotconfig):
        kconf.load_config(dotconfig)
        fold_enums(kconf, dotconfig)
    for sym in kconf.unique_defined_syms:
        sym.str_value  # a value out of range is found out when it is looked at
    if kconf.warnings:
        fail("\n".join(kconf.warnings))
    return kconf


def fold_enums(kconf, dotconfig):
    """Kconfig ignores an assignment to a promptless string; to us CONFIG_ID_ORDER="sharded" alone chooses the member."""
    with open(dotconfig, encoding="utf-8") as f:
        text = f.read()
    for sym in kconf.unique_defined_syms:
        match = re.search(rf'^CONFIG_{sym.name}="(.*)"$', text, re.M)
        members = dict(enum_members(sym))
        if not members or not match:
            continue
        word = match.group(1)
        if word not in members:
            fail(f"{dotconfig}: CONFIG_{sym.name} is one of {', '.join(members)}, not \"{word}\"")
        chosen = [m for m in members.values() if re.search(rf"^CONFIG_{m.name}=y$", text, re.M)]
        if chosen and members[word] not in chosen:
            fail(f"{dotconfig}: CONFIG_{sym.name}=\"{word}\" contradicts CONFIG_{chosen[0].name}=y")
        members[word].set_value(2)


def options(kconf):
    found = []

    def walk(node, menu, build):
        while node:
            if node.item is kconfiglib.MENU:
                title = node.prompt[0]
                walk(node.list, title, build or title == BUILD_MENU)
            elif isinstance(node.item, kconfiglib.Choice):
                pass  # its members are known through the promptless string
            elif isinstance(node.item, kconfiglib.Symbol):
                found.append(Option(node.item, node, menu, build))
                walk(node.list, menu, build)
            node = node.next

    walk(kconf.top_node.list, "", False)
    return found


def c_string(s):
    return '"' + s.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def header(opts, version):
    runtime = [o for o in opts if not o.build]
    foreign = sorted({FOREIGN_ENUMS[o.key] for o in runtime if o.key in FOREIGN_ENUMS})
    out = ["/* Generated from Kconfig by tools/kconfig/gen.py. */", "#ifndef ORDINAL_CONFIG_GEN_H", "#define ORDINAL_CONFIG_GEN_H", ""]
    out += [f'#include "{h}"' for h in foreign] + ["", "#include <stdbool.h>", "#include <stdint.h>", ""]
    out += [f'#define ORDINAL_VERSION {c_string(version)}', "", "/* Build options: always defined, 0 or 1. */"]
    out += [f"#define CONFIG_{o.key} {o.value()}" for o in opts if o.build] + [""]
    for o in runtime:
        if o.kind == "enum" and o.key not in FOREIGN_ENUMS:
            out.append(f"enum config_{o.field} {{ {', '.join(m.name for _, m in o.members)} }};")
    out += ["", "/* One field a runtime option. Strings are never NULL. */", "struct config {"]
    ctype = {"bool": "bool ", "int": "int64_t ", "string": "const char *", "enum": "int "}
    for o in runtime:
        note = f" /* {', '.join(m.name for _, m in o.members)} */" if o.kind == "enum" else ""
        out.append(f"\t{ctype[o.kind]}{o.field};{note}")
    return "\n".join(out + ["};", "", "#endif", ""])


def table(opts):
    out = ["/* Generated from Kconfig by tools/kconfig/gen.py. */", '#include "core/config.h"', "", "#include <stddef.h>", ""]
    for o in opts:
        if o.kind != "enum":
            continue
        words = "".join(c_string(w) + ", " for w, _ in o.members)
        out.append(f"static const char *const {o.field}_words[] = {{{words}NULL}};")
        out += [f'_Static_assert({m.name} == {i}, "the constants of {o.key} follow Kconfig");' for i, (_, m) in enumerate(o.members)]
    out += ["", "const struct config_option config_options[] = {"]
    for o in opts:
        value = o.value()
        fields = [f".key = {c_string(o.key)}", f".kind = CONFIG_{o.kind.upper()}"]
        if o.build:
            fields.append(f".build = true, .def_int = CONFIG_{o.key}")
        else:
            fields.append(f".offset = offsetof(struct config, {o.field})")
            fields.append(f".def_text = {c_string(value)}" if o.kind == "string" else f".def_int = {value}")
        if o.kind == "int":
            fields.append(f".min = {o.min}, .max = {o.max}")
        if o.kind == "enum":
            fields.append(f".words = {o.field}_words, .max = {len(o.members) - 1}")
        fields += [f".{flag} = true" for flag in ("live", "pow2") if getattr(o, flag)]
        fields += [f".menu = {c_string(o.menu)}", f".prompt = {c_string(o.prompt)}", f".help = {c_string(o.help)}"]
        out.append("\t{" + ",\n\t ".join(fields) + "},")
    return "\n".join(out + ["};", "const unsigned config_option_count = sizeof config_options / sizeof config_options[0];", ""])


def build_flags(opts):
    return "".join(f"CONFIG_{o.key} := {'y' if o.value() else ''}\n" for o in opts if o.build)


def assignment(o):
    value = o.value()
    if o.kind == "bool":
        return f"CONFIG_{o.key}={'y' if value else 'n'}"
    if o.kind == "int":
        return f"CONFIG_{o.key}={value}"
    text = o.members[value][0] if o.members else value
    return f"CONFIG_{o.key}={c_string(text)}"


def conf(opts):
    """The installed file: every runtime option with its help, at its value."""
    out = ["# Configuration of ordinald; see `ordinald --help` and ordinald --check.",
           "# Same syntax as the .config that `make menuconfig` writes. A line that is left out means its default."]
    menu = None
    for o in opts:
        if o.build:
            continue
        if o.menu != menu:
            menu = o.menu
            out += ["", f"# ---- {menu} ----"]
        out += ["", f"# {o.prompt}"] + [f"# {line}" for line in o.help.split("\n")]
        if o.kind == "int":
            out.append(f"# {o.min} to {o.max}")
        elif o.kind == "enum":
            out.append("# one of " + ", ".join(w for w, _ in o.members))
        out.append(assignment(o))
    return "\n".join(out) + "\n"


def roff(text):
    """Plain text, with nothing in it that troff takes for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def man(opts):
    """ordinal.conf(5): every runtime option, by menu."""
    out = ['.TH ORDINAL.CONF 5 "@DATE@" "Ordinal @VERSION@" "File formats"', ".SH NAME", "ordinal.conf \\- configuration of ordinald(8)", ".SH SYNOPSIS",
           ".I /etc/ordinal/ordinal.conf", ".SH DESCRIPTION",
           "Lines of the form", ".BI CONFIG_ KEY = value", "set options; strings are in double quotes, booleans are y or n.",
           "Lines that begin with # are comments. This is the syntax of Kconfig's .config, so what", ".B make menuconfig",
           "writes can be used as it is. An unknown key, a key given twice, or a value out of range is refused with its line.",
           ".B ordinald \\-\\-check \\-c \\fIFILE", "checks a file."]
    menu = None
    for o in opts:
        if o.build:
            continue
        if o.menu != menu:
            menu = o.menu
            out += [f".SH {roff(menu.upper())}"]
        if o.kind == "enum":
            accepts = "one of " + ", ".join(f'"{word}"' for word, _ in o.members)
        elif o.kind == "int":
            accepts = f"{o.min} to {o.max}"
        else:
            accepts = {"bool": "y or n", "string": "text"}[o.kind]
        out += [".TP", f".B CONFIG_{o.key}", roff(o.prompt) + ".", ".br", roff(f"Default: {assignment(o).split('=', 1)[-1]}. Accepts: {accepts}."),
                ".br", roff(" ".join(line for line in o.help.split("\n")))]
    out += [".SH SEE ALSO", ".BR ordinald (8),", ".BR ordinal (1)", ""]
    return "\n".join(out)


def write_if_changed(path, text):
    """Keeps the time stamp of a file that stays the same, so that a change of a runtime default rebuilds little."""
    try:
        with open(path, encoding="utf-8") as f:
            if f.read() == text:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def main(argv):
    os.environ["CONFIG_"] = "CONFIG_"
    if len(argv) == 5 and argv[0] == "build":
        _, kconfig, dotconfig, version, outdir = argv
        opts = options(load(kconfig, dotconfig))
        defaults = options(load(kconfig, None))
        by_key = {o.key: o for o in opts}
        # What is compiled in: the build options as chosen, the runtime options at Kconfig's defaults.
        merged = [by_key[o.key] if o.build else o for o in defaults]
        write_if_changed(f"{outdir}/config_gen.h", header(merged, version))
        write_if_changed(f"{outdir}/config_table.c", table(merged))
        write_if_changed(f"{outdir}/config.mk", build_flags(merged))
    elif len(argv) == 3 and argv[0] == "defconfig":
        load(argv[1], None).write_config(argv[2], save_old=False)
    elif len(argv) == 3 and argv[0] == "conf":
        sys.stdout.write(conf(options(load(argv[1], argv[2]))))
    elif len(argv) == 3 and argv[0] == "man":
        sys.stdout.write(man(options(load(argv[1], argv[2]))))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
