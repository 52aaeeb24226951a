#!/usr/bin/env python3
"""Compares the declarations of seerattn-sys with bindgen's of the header. usage: compare_bindgen.py OURS THEIRS"""
import re
import sys


def plain(text):
    """Without paths, spaces and trailing commas."""
    text = re.sub(r"::\s*(std|core)\s*::\s*(os\s*::\s*raw|option|ffi)\s*::\s*", "", text)
    text = re.sub(r"\s+", "", text).replace("usize]", "]").replace("size_t", "usize")
    return re.sub(r",([)}>])", r"\1", text)


def declarations(path):
    """What a file of Rust declares: {"struct seer_x": "fields", "fn seer_y": "(arguments)->type", ...}."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"//[^\n]*", "", text)
    text = text.split("#[cfg(test)]\nmod layout;")[0]
    found = {}
    for name, body in re.findall(r"\bstruct (seer_\w+) \{(.*?)\n\s*\}", text, re.S):
        found["struct " + name] = plain(body).replace("pub", "").rstrip(",")
    for name in re.findall(r"^\s+(seer_\w+);", text, re.M):  # in handles!
        found["struct " + name] = "_unused:[u8;0]"
    for name, body in re.findall(r"\bpub type (seer_\w+)\s*=\s*(.*?);", text, re.S):
        found["type " + name] = plain(body)
    for name, body in re.findall(r"\bpub fn (seer_\w+)\s*(\(.*?);", text, re.S):
        found["fn " + name] = plain(body)
    values = {"MAX": "(1<<64)-1"}
    for name, value in re.findall(r"\bpub const (SEER_\w+)\s*:[^=]*=\s*(.*?);", text, re.S):
        value = value.replace("u64::MAX", "MAX")
        values[name] = eval(re.sub(r"\b[A-Z]\w*", lambda word: str(values[word.group()]), value))  # literals, | and <<
        found["const " + name] = values[name]
    return found


def main():
    ours, theirs = (declarations(path) for path in sys.argv[1:3])
    ours.pop("const SEER_VERSION", None), theirs.pop("const SEER_VERSION", None)  # made of the three others
    ours.pop("const SEER_TICKET_ALL", None), theirs.pop("const SEER_TICKET_ALL", None)  # bindgen cannot read UINT64_MAX
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    for name in wrong:
        print(f"{name}\n    ours   {ours.get(name, 'absent')}\n    theirs {theirs.get(name, 'absent')}")
    if wrong or len(theirs) < 100:
        sys.exit(f"{len(wrong)} of {len(theirs)} declarations differ")
    print(f"{len(theirs)} declarations are bindgen's")


main()
