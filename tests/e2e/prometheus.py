"""What `promtool check metrics` asks of an exposition in Prometheus' text format, and what the format itself asks: written from the format's description and from
client_golang's promlint, so that the tests need no promtool."""

import math
import re

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")  # without colons: those are for recording rules
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)\Z')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|\Z)')
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
# units that have a base unit of their own, and words that shorten one
UNITS = {"amperes", "bits", "calories", "celsius", "days", "degrees", "fahrenheit", "feet", "gallons", "grams", "gram", "hours", "inches", "kelvin",
         "kibibytes", "kilobytes", "mebibytes", "megabytes", "microseconds", "milliseconds", "minutes", "months", "nanoseconds", "percent", "percentage",
         "weeks", "years"}
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}


def labels_of(text):
    """The labels as a dict, or None for what is not a list of labels."""
    found, at = {}, 0
    while at < len(text):
        m = LABEL.match(text, at)
        if not m or m[1] in found:
            return None
        found[m[1]] = m[2]
        at = m.end()
    return found


def value_of(text):
    try:
        return float({"+Inf": "inf", "-Inf": "-inf", "NaN": "nan"}.get(text, text))
    except ValueError:
        return None


class Family:
    def __init__(self, name):
        self.name, self.type, self.help, self.samples = name, None, None, []

    def owns(self, sample):
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}.get(self.type, ("",))
        return any(sample == self.name + s for s in suffixes)


def parse(text, complain):
    """The families, in order."""
    families, now = {}, None
    if not text.endswith("\n"):
        complain("the last line has no end")
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP ") or line.startswith("# TYPE "):
            _, what, name, rest = (line + " ").split(" ", 3)
            rest = rest[:-1]
            if now is None or now.name != name:
                if name in families:
                    complain(f"{name}: its lines are not together")
                now = families.setdefault(name, Family(name))
            if what == "HELP":
                now.help = rest
            else:
                if now.samples or now.type:
                    complain(f"{name}: its type comes late, or twice")
                now.type = rest
                if rest not in TYPES:
                    complain(f"{name}: no type is called {rest}")
        elif line and not line.startswith("#"):
            m = SAMPLE.match(line)
            labels = labels_of(m[2] or "") if m else None
            if labels is None or value_of(m[3]) is None:
                complain(f"not a sample: {line}")
            elif now is None or not now.owns(m[1]):
                complain(f"{m[1]}: a sample without a type before it")
            else:
                now.samples.append((m[1], labels, value_of(m[3])))
    return list(families.values())


def lint_names(f, complain):
    words = f.name.split("_")
    if not NAME.match(f.name) or re.search("[a-z][A-Z]", f.name):
        complain(f"{f.name}: not written in snake_case")
    if f.help in (None, ""):
        complain(f"{f.name}: no help")
    if f.type is None:
        complain(f"{f.name}: no type")
    if (f.type == "counter") != f.name.endswith("_total"):
        complain(f"{f.name}: counters, and nothing else, end in _total")
    if f.type != "histogram" and f.name.endswith("_bucket") or f.type not in ("histogram", "summary") and f.name.endswith(("_count", "_sum")):
        complain(f"{f.name}: the suffix is a histogram's")
    for word in words:
        if word in UNITS:
            complain(f"{f.name}: {word} is not a base unit")
        if word in ABBREVIATIONS:
            complain(f"{f.name}: {word} shortens a unit")
        if word in TYPES[:4] and word == f.type:
            complain(f"{f.name}: the type stands in the name")


def lint_histogram(f, complain):
    series = {}
    for name, labels, value in f.samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        s = series.setdefault(key, {"buckets": []})
        if name.endswith("_bucket"):
            s["buckets"].append((value_of(labels.get("le", "x")), value))
        else:
            s[name[len(f.name):]] = value
    for key, s in series.items():
        edges = [e for e, _ in s["buckets"]]
        counts = [n for _, n in s["buckets"]]
        if None in edges or edges != sorted(set(edges)) or counts != sorted(counts) or not edges or edges[-1] != math.inf:
            complain(f"{f.name}{dict(key)}: its buckets do not rise to +Inf")
        elif s.get("_count") != counts[-1] or "_sum" not in s:
            complain(f"{f.name}{dict(key)}: its count is not that of the last bucket, or there is no sum")


def lint_samples(f, complain):
    seen = set()
    for name, labels, value in f.samples:
        key = (name, tuple(sorted(labels.items())))
        if key in seen:
            complain(f"{name}{labels}: twice")
        seen.add(key)
        if "le" in labels and f.type != "histogram" or "quantile" in labels and f.type != "summary":
            complain(f"{name}: the label is a histogram's or a summary's")
        if any(k.startswith("__") or re.search("[a-z][A-Z]", k) for k in labels):
            complain(f"{name}: the name of a label is reserved, or not in snake_case")
        if f.type == "counter" and not value >= 0:
            complain(f"{name}: a counter below 0")
    if f.type == "histogram":
        lint_histogram(f, complain)


def check(text):
    """What is wrong with an exposition, in words; nothing: []."""
    complaints = []
    for f in parse(text, complaints.append):
        lint_names(f, complaints.append)
        lint_samples(f, complaints.append)
    return complaints
