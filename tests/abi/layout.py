#!/usr/bin/env python3
"""The ABI of seerattn.h as data: sizes, offsets and types of its structs, values of its constants, names of its calls.

layout.py probe HEADER            prints a C program; compiled and run, it prints the layout as JSON
layout.py check NOW GOLDEN [RELEASED]
                                  NOW must equal GOLDEN, and be compatible with the layout of a released version:
                                  growable structs may have got fields at their end, frozen ones are the same, no
                                  constant has another value, no call another prototype, and nothing is gone
layout.py functions HEADER        prints the names of the calls, one a line
layout.py stub HEADER             prints a C source of calls that do nothing
layout.py next HEADER             prints the header as a next version might be: a field more in each growable struct

The header is parsed here, but every number comes from the compiler that builds the library. Nothing needs clang.
"""
import json
import re
import sys

# Fewer structs, functions and enumerators than these, and the header was not understood.
LEAST = {"seerattn.h": (10, 30, 50), "seerattn_vulkan.h": (2, 4, 0)}
DECORATIONS = ("SEER_API", "SEER_CALL")  # say how to export and call, not what


def fail(message):
    sys.exit("layout.py: " + message)


# ---- Parsing the header ---------------------------------------------------------------------------------------------


def spaced(tokens):
    """Tokens as one writes them in C: `const float *`, `int64_t[4]`, `void *(*)(void *, uint64_t)`."""
    text = " ".join(tokens)
    text = re.sub(r"\* (?=[*)(,]|$)", "*", text)
    text = re.sub(r" (?=[\[\]),])", "", text)
    text = re.sub(r"(?<=[(\[]) ", "", text)
    return re.sub(r"(?<=\)) \(", "(", text)


def without_name(tokens):
    """A declarator's name and its tokens without it: in `void *(*free)(void *p)` the name is `free`.

    The name is the first identifier that follows `(*` if there is one, else the last one before `[` or the end."""
    for i in range(2, len(tokens)):
        if tokens[i - 2 : i] == ["(", "*"] and re.match(r"\w", tokens[i]):
            return tokens[i], tokens[:i] + tokens[i + 1 :]
    end = tokens.index("[") if "[" in tokens else len(tokens)
    words = [i for i in range(end) if re.match(r"[A-Za-z_]", tokens[i])]
    if len(words) < 2 or tokens[words[-1] - 1] == "const":
        return "", tokens
    return tokens[words[-1]], tokens[: words[-1]] + tokens[words[-1] + 1 :]


def arguments(tokens):
    """The tokens of `( a, b )` as types without names."""
    parts, depth = [[]], 0
    for token in tokens[1:-1]:
        if token == "," and depth == 0:
            parts.append([])
            continue
        depth += {"(": 1, ")": -1}.get(token, 0)
        parts[-1].append(token)
    return "(" + ", ".join(spaced(unnamed(p)) for p in parts) + ")"


def unnamed(tokens):
    return without_name(tokens)[1]


def declared(tokens):
    """(name, type) of one declaration without its semicolon; argument names of function pointers are dropped."""
    name, rest = without_name(tokens)
    if "(" not in rest:
        return name, spaced(rest)
    close = rest.index(")")  # of `( * )`
    return name, spaced(rest[: close + 1]) + arguments(rest[close + 1 :])


def statements(text):
    """Top-level statements as lists of tokens; braces are kept inside theirs."""
    out, now, depth = [], [], 0
    for token in re.findall(r"\w+|\S", text):
        if token in DECORATIONS:
            continue
        if token == ";" and depth == 0:
            out.append(now)
            now = []
            continue
        depth += {"{": 1, "}": -1}.get(token, 0)
        now.append(token)
    if now:
        fail(f"cannot read the end of the header: {spaced(now)[:200]}")
    return out


def split(tokens, separator):
    parts = [[]]
    for token in tokens:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return [p for p in parts if p]


def parse(path):
    text = open(path, encoding="utf-8").read()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"(?ms)^#ifdef __cplusplus$.*?^#(else|endif)$", "", text)  # a C compiler's view
    macros = [
        m.group(1)
        for m in re.finditer(r"(?m)^#define (SEER_\w+)[ \t]+\S", text)
        if m.group(1) not in DECORATIONS
    ]
    text = re.sub(r"(?m)^#.*$", "", text)
    header = dict(structs={}, enums=[], macros=macros, handles=[], typedefs={}, callbacks={}, functions={})
    for tokens in statements(text):
        if tokens[0] == "enum":
            header["enums"] += [c[0] for c in split(tokens[2:-1], ",")]
        elif tokens[:2] == ["typedef", "struct"] and "{" in tokens:
            fields = [declared(f) for f in split(tokens[tokens.index("{") + 1 : tokens.index("}")], ";")]
            header["structs"][tokens[-1]] = fields
        elif tokens[:2] == ["typedef", "struct"]:
            header["handles"].append(tokens[-1])
        elif tokens[0] == "typedef" and "(" in tokens:
            name, kind = declared(tokens[1:])
            header["callbacks"][name] = kind
        elif tokens[0] == "typedef":
            header["typedefs"][tokens[-1]] = spaced(tokens[1:-1])
        elif "(" in tokens:
            open_ = tokens.index("(")
            prototype = f"{spaced(tokens[: open_ - 1])} {arguments(tokens[open_:])}"
            header["functions"][tokens[open_ - 1]] = prototype.replace("* (", "*(")
        else:
            fail(f"cannot read: {spaced(tokens)[:200]}")
    found = [len(header[part]) for part in ("structs", "functions", "enums")]
    least = LEAST.get(path.rsplit("/", 1)[-1], LEAST["seerattn.h"])
    if any(n < m for n, m in zip(found, least)):
        fail(f"found too little in {path}: the parser does not understand it")
    return header


# ---- The probe ------------------------------------------------------------------------------------------------------


def probe(path):
    """A C program that prints the layout. It declares everything once more with the types printed, so that it does not
    compile if the parser has misread one."""
    header = parse(path)
    out = [
        f"#include <seerattn/{path.rsplit('/', 1)[-1]}>",
        "#include <stdio.h>",
    ]
    out += [f"struct align_of_{s} {{ char c; {s} x; }};" for s in header["structs"]]
    for name, prototype in header["functions"].items():
        result, bracket, rest = prototype.partition("(")
        out.append(f"SEER_API {result}SEER_CALL {name}{bracket}{rest};")
    out += ["int main(void) {"]
    for name, kind in {**header["callbacks"], **header["typedefs"]}.items():
        out.append(f"  {{ {pointer_to(kind, 'same')} = ({name} *)0; (void)same; }}")
    out += ['  printf("{\\n  \\"structs\\": {");']

    def line(text, *values):
        arguments_ = "".join(", " + v for v in values)
        out.append("  printf(" + json.dumps(text) + arguments_ + ");")

    for i, (name, fields) in enumerate(header["structs"].items()):
        frozen = "false" if fields[0][0] == "struct_size" else "true"
        line(
            f'%s\n    "{name}": {{"size": %zu, "align": %zu, "frozen": {frozen}, "fields": [',
            '""' if i == 0 else '","',
            f"sizeof({name})",
            f"offsetof(struct align_of_{name}, x)",
        )
        for j, (field, kind) in enumerate(fields):
            out.append(f"  {{ static {name} x; {pointer_to(kind, 'same')} = &x.{field}; (void)same; }}")
            line(
                f'%s\n      {{"name": "{field}", "offset": %zu, "size": %zu, "type": "{kind}"}}',
                '""' if j == 0 else '","',
                f"offsetof({name}, {field})",
                f"sizeof((({name} *)0)->{field})",
            )
        line("\n    ]}")
    line('\n  },\n  "constants": {')
    for i, name in enumerate(header["macros"] + header["enums"]):
        comma = '""' if i == 0 else '","'
        if name in header["macros"]:
            line(f'%s\n    "{name}": %llu', comma, f"(unsigned long long){name}")
        else:
            line(f'%s\n    "{name}": %d', comma, name)
    line("\n  },\n")
    rest = dict(
        types={**header["typedefs"]},
        handles=header["handles"],
        callbacks=header["callbacks"],
        functions=list(header["functions"]),
        prototypes=header["functions"],
    )
    body = json.dumps(rest, indent=2)[2:]
    out += ["  fputs(" + json.dumps(l + "\n") + ", stdout);" for l in body.split("\n")]
    out += ["  return 0;", "}"]
    print("\n".join(out))


def pointer_to(kind, name):
    """A declaration of `name` as a pointer to the type: `int64_t (*name)[4]`, `void (**name)(void *)`."""
    if "(*)" in kind:
        return kind.replace("(*)", f"(SEER_CALL **{name})", 1)
    base, bracket, extent = kind.partition("[")
    return f"{base} (*{name}){bracket}{extent}"


# ---- Comparing ------------------------------------------------------------------------------------------------------


def differences(now, golden):
    """Every leaf that differs, as `path: golden -> now`."""
    def flat(value, path):
        if isinstance(value, dict):
            for k, v in value.items():
                yield from flat(v, f"{path}.{k}" if path else k)
        elif isinstance(value, list):
            for i, v in enumerate(value):
                named = isinstance(v, dict) and "name" in v
                yield from flat(v, f"{path}.{v['name'] if named else i}")
            yield f"{path} (count)", len(value)
        else:
            yield path, value

    a, b = dict(flat(golden, "")), dict(flat(now, ""))
    for path in sorted(a.keys() | b.keys()):
        if a.get(path) != b.get(path):
            yield f"{path}: {a.get(path, 'absent')} -> {b.get(path, 'absent')}"


def serves(new, old):
    """Whether a field can stand where a program expects the old one. What was reserved, and so 0, may get a meaning."""
    if old["name"].startswith("reserved"):
        return (new["offset"], new["size"]) == (old["offset"], old["size"])
    return new == old


def incompatibilities(now, released):
    """What a program compiled with the released header would trip over."""
    for name, old in released["structs"].items():
        new = now["structs"].get(name)
        if new is None:
            yield f"{name} is gone"
            continue
        if len(new["fields"]) < len(old["fields"]) or not all(map(serves, new["fields"], old["fields"])):
            yield f"{name}: its fields up to {old['fields'][-1]['name']} changed; new ones go to the end"
        if new["align"] != old["align"] or new["frozen"] != old["frozen"]:
            yield f"{name}: alignment or kind changed"
        if new["size"] < old["size"] or (old["frozen"] and new["size"] != old["size"]):
            yield f"{name}: size changed from {old['size']} to {new['size']}"
    for name, value in released["constants"].items():
        if name.startswith("SEER_VERSION"):
            continue
        if now["constants"].get(name) != value:
            yield f"{name} was {value} and is {now['constants'].get(name, 'gone')}"
    for part in ("types", "callbacks", "prototypes"):
        for name, value in released[part].items():
            if now[part].get(name) != value:
                yield f"{name} was `{value}` and is `{now[part].get(name, 'gone')}`"
    for name in released["handles"]:
        if name not in now["handles"]:
            yield f"{name} is gone"


def check(now_path, golden_path, released_path=None):
    now, golden = (json.load(open(p, encoding="utf-8")) for p in (now_path, golden_path))
    changed = list(differences(now, golden))
    for text in changed:
        print("changed:", text)
    if changed:
        print(f"{golden_path} is not what the header gives. If the change is meant: ninja -C BUILD abi-update")
    broken = []
    if released_path:
        broken = list(incompatibilities(now, json.load(open(released_path, encoding="utf-8"))))
        for text in broken:
            print(f"incompatible with {released_path}:", text)
    fields = sum(len(s["fields"]) for s in now["structs"].values())
    counts = {p: len(now[p]) for p in ("structs", "constants", "functions")}
    print(f"{counts['structs']} structs, {fields} fields, {counts['constants']} constants, {counts['functions']} calls")
    sys.exit(1 if changed or broken else 0)


def functions(path):
    print("\n".join(parse(path)["functions"]))


def stub(path):
    print("#include <seerattn/seerattn.h>")
    for name, prototype in parse(path)["functions"].items():
        result, _, rest = prototype.partition("(")
        kinds = [k for k in rest[:-1].split(", ") if k != "void"]
        listed = ", ".join(f"{kind} a{i}" for i, kind in enumerate(kinds)) or "void"
        body = "" if result.strip() == "void" else " return 0; "
        print(f"SEER_API {result}SEER_CALL {name}({listed}) {{{body}}}")


def next_version(path):
    text = open(path, encoding="utf-8").read()
    for name, fields in parse(path)["structs"].items():
        if fields[0][0] == "struct_size":
            text = text.replace(f"}} {name};", f"  uint64_t next;\n}} {name};")
    minor = re.search(r"#define SEER_VERSION_MINOR (\d+)", text)
    print(text.replace(minor.group(0), f"#define SEER_VERSION_MINOR {int(minor.group(1)) + 1}"))


if __name__ == "__main__":
    commands = {"probe": probe, "functions": functions, "stub": stub, "next": next_version}
    if len(sys.argv) == 3 and sys.argv[1] in commands:
        commands[sys.argv[1]](sys.argv[2])
    elif len(sys.argv) in (4, 5) and sys.argv[1] == "check":
        check(*sys.argv[2:])
    else:
        sys.exit(__doc__)
