#!/usr/bin/env python3
"""The man page and the shells' completions of `seer`, made from what its --help says, so that they cannot disagree.

command_docs.py SEER man|bash|zsh|fish      prints one of them
"""
import re
import subprocess
import sys
from dataclasses import dataclass, field


@dataclass
class Option:
    names: list  # ["-h", "--help"], or ["FILE"] of a positional
    value: str  # TEXT, INT, ...; "" takes none
    detail: str  # default, REQUIRED, ...
    choices: list
    text: str

    @property
    def positional(self):
        return not self.names[0].startswith("-")


@dataclass
class Command:
    name: str
    about: str
    usage: str
    options: list = field(default_factory=list)
    notes: list = field(default_factory=list)  # of a group: (title, text)
    footer: list = field(default_factory=list)
    commands: list = field(default_factory=list)  # (name, text)


def option(head, text):
    """`--dtype TEXT:{f32,f16}=f32 ...` in its parts."""
    words = head.split(" ", 1)
    names = words[0].split(",")
    rest = words[1].strip() if len(words) > 1 else ""
    choices = re.search(r"\{([^}]*)\}", rest)
    value = re.match(r"[A-Z]+", rest)
    detail = []
    default = re.search(r"=\[?([^\s\]]+)\]?", rest)
    if default:
        detail.append(f"default {default.group(1)}")
    if "REQUIRED" in rest:
        detail.append("required")
    chosen = choices.group(1).split(",") if choices else []
    return Option(names, value.group(0) if value else "", ", ".join(detail), chosen, text)


def parse(name, text):
    lines = text.split("\n")
    usage = next(i for i, line in enumerate(lines) if line.startswith("Usage: "))
    command = Command(name, " ".join(lines[:usage]), lines[usage][len("Usage: ") :])
    i = usage + 1
    section = ""
    while i < len(lines):
        line = lines[i]
        heading = re.fullmatch(r"(?:\[(Option Group: .*)\]|(Positionals|Options|Subcommands):)", line)
        if heading:
            section = heading.group(1) or heading.group(2)
            if heading.group(1):
                command.notes.append((section.split(": ")[1], lines[i + 1].strip()))
        elif section and line.startswith("  "):
            indent = len(line) - len(line.lstrip())
            if indent <= 4 and not line.strip().startswith("[") and line.strip() != "Options:":
                # Texts start at column 28 of their indentation, a line below if the option itself is longer.
                fits = len(line) > 28 + indent and line[27 + indent] == " "
                head, said = (line[: 28 + indent].strip(), line[28 + indent :].strip()) if fits else (line.strip(), "")
                while i + 1 < len(lines) and re.match(r" {20,}\S", lines[i + 1]):
                    i += 1
                    said = f"{said} {lines[i].strip()}".strip()
                if section == "Subcommands":
                    command.commands.append((head, said))
                elif said or head.startswith("-"):
                    command.options.append(option(head, said))
        elif section and line:
            break
        i += 1
    command.footer = lines[i:]
    while command.footer and not command.footer[-1]:
        command.footer.pop()
    return command


def help_of(seer, *words):
    return subprocess.run([seer, *words, "--help"], check=True, capture_output=True, text=True).stdout


def read(seer):
    main = parse("seer", help_of(seer))
    commands = [parse(name, help_of(seer, name)) for name, _ in main.commands]
    if len(commands) < 3 or not all(any("--help" in o.names for o in c.options) for c in commands):
        sys.exit("command_docs.py: cannot read what seer --help prints")
    version = subprocess.run([seer, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    return main, commands, version


# ---- Man page -------------------------------------------------------------------------------------------------------


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in ".'" else line for line in text.split("\n"))


def man_options(options):
    for o in options:
        yield ".TP"
        names = ", ".join(f"\\fB{roff(n)}\\fR" if not o.positional else f"\\fI{n}\\fR" for n in o.names)
        yield names + (f" \\fI{o.value}\\fR" if o.value and not o.positional else "")
        yield roff(o.text + (f" ({o.detail})" if o.detail else "")) or "\\&"


def man_text(lines):
    """Paragraphs; lines that are indented stay as they are."""
    literal = False
    for line in lines:
        if line.startswith("  ") and not literal:
            yield ".PP\n.RS 2\n.nf"
            literal = True
        elif literal and line and not line.startswith("  "):
            yield ".fi\n.RE\n.PP"
            literal = False
        yield roff(line[2:] if literal else line) if line else (".PP" if not literal else "")
    if literal:
        yield ".fi\n.RE"


def man(main, commands, version):
    yield f'.TH SEER 1 "" "seerattn {version}" "User Commands"'
    yield ".SH NAME\nseer \\- learned block\\-sparse attention from the command line"
    yield ".SH SYNOPSIS"
    for c in commands:
        arguments = c.usage.replace(f"seer {c.name}", "").strip()
        yield f".B seer {roff(c.name)}\n{roff(arguments)}\n.br"
    yield ".B seer\n\\-\\-help | \\-\\-version"
    yield ".SH DESCRIPTION\n" + roff(main.about) + "\n.PP"
    yield from man_text(main.footer)
    yield ".SH COMMANDS"
    for c in commands:
        yield f".SS seer {roff(c.name)}\n{roff(c.about)}."
        yield from man_options(o for o in c.options if "--help" not in o.names)
        for title, said in c.notes:
            yield f".PP\nOf the options of {roff(title)}: {roff(said[:1].lower() + said[1:])}."
        yield ".PP"
        yield from man_text(c.footer)
    yield ".SH SEE ALSO\nThe C API: \\fIseerattn/seerattn.h\\fR. SeerAttention: https://arxiv.org/abs/2410.13276"


# ---- Completions ----------------------------------------------------------------------------------------------------


def bash(_, commands, __):
    yield "# bash completion for seer"
    yield "_seer() {"
    yield '  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]:-}'
    yield "  COMPREPLY=()"
    yield '  if [ "$COMP_CWORD" = 1 ]; then'
    names = " ".join(c.name for c in commands)
    yield f'    mapfile -t COMPREPLY < <(compgen -W "{names} --help --version" -- "$word")'
    yield "    return\n  fi"
    yield '  case "$command $previous" in'
    for c in commands:
        for o in c.options:
            if o.choices and not o.positional:
                pattern = " | ".join(f'"{c.name} {n}"' for n in o.names)
                chosen = " ".join(o.choices)
                yield f'    {pattern}) mapfile -t COMPREPLY < <(compgen -W "{chosen}" -- "$word"); return ;;'
    yield "  esac"
    yield '  [[ $word == -* ]] || return  # file names: complete -o default'
    yield '  case "$command" in'
    for c in commands:
        words = " ".join(n for o in c.options if not o.positional for n in o.names)
        yield f'    {c.name}) mapfile -t COMPREPLY < <(compgen -W "{words}" -- "$word") ;;'
    yield "  esac\n}\ncomplete -o default -F _seer seer"


def quoted(text):
    return text.replace("'", "'\\''")


def zsh(main, commands, _):
    yield "#compdef seer"
    yield "_seer() {\n  local -a commands\n  commands=("
    for name, text in main.commands:
        yield f"    '{name}:{quoted(text).replace(':', chr(92) + ':')}'"
    yield "  )"
    yield "  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi"
    yield "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in"
    for c in commands:
        yield f"    {c.name})\n      _arguments \\"
        for o in c.options:
            if o.positional:
                continue
            text = quoted(re.sub(r"([\[\]:\\])", r"\\\1", o.text))
            action = f"({' '.join(o.choices)})" if o.choices else "_files" if o.value == "TEXT" else ""
            for n in o.names:
                yield f"        '*{n}[{text}]" + (f":{o.value.lower()}:{action}" if o.value else "") + "' \\"
        yield "        '*:file:_files'\n      ;;"
    yield "  esac\n}\n_seer \"$@\""


def fish(main, commands, _):
    yield "# fish completion for seer"
    for name, text in main.commands:
        yield f"complete -c seer -f -n __fish_use_subcommand -a {name} -d '{quoted(text)}'"
    yield "complete -c seer -n __fish_use_subcommand -s h -l help"
    yield "complete -c seer -n __fish_use_subcommand -l version"
    for c in commands:
        for o in c.options:
            if o.positional:
                continue
            flags = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in o.names)
            value = f" -x -a '{' '.join(o.choices)}'" if o.choices else " -r" if o.value else ""
            yield f"complete -c seer -n '__fish_seen_subcommand_from {c.name}' {flags}{value} -d '{quoted(o.text)}'"


if __name__ == "__main__":
    kinds = {"man": man, "bash": bash, "zsh": zsh, "fish": fish}
    if len(sys.argv) != 3 or sys.argv[2] not in kinds:
        sys.exit(__doc__)
    print("\n".join(kinds[sys.argv[2]](*read(sys.argv[1]))))
