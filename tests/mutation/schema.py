# SPDX-License-Identifier: Apache-2.0
"""Where C code can be broken, and the same code with all of that built in, one switch each.

To compile a program for each mutant would take longer than to test it. So all mutants of a file
are compiled at once (mutant schemata): where a mutant can be, the code asks which is switched on,

    if (seq_lt(at, stop))     ->     if (!(seq_lt(at, stop)) ^ !MUTANT(17))
    a->nr++;                  ->     (MUTANT(18) ? (void)0 : (void)(a->nr++));

and with none on, it does what it did. `mutant` is a variable, set by whoever runs the tests.

The operators: relational (the bound moved, the sense turned), arithmetic, bitwise and shift,
logical, the condition of a branch or loop negated, constants (one more; a named one twice as
large; 0 and 1, true and false exchanged; another reason returned; a term of a table left out),
statements left out. What stands
in a macro's arguments is left alone: those are assertions.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from clang.cindex import Cursor, CursorKind, Index, TranslationUnit, TypeKind

ROOT = Path(__file__).resolve().parents[2]
INCLUDES = ("stack", "jump_label", "xdp_prog")

RELATIONAL = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
}
ARITHMETIC = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "%": "*",
    "<<": ">>",
    ">>": "<<",
    "&": "|",
    "|": "&",
    "^": "&",
}
LOGICAL = {"&&": "||", "||": "&&"}
ASSIGNING = {"+=": "-=", "-=": "+=", "|=": "&=", "&=": "|=", "<<=": ">>=", ">>=": "<<="}
STEPS = {"++": "--", "--": "++"}

PREAMBLE = """
#ifndef MUTANT
extern int mutant; /* which one is switched on; 0: none */
#define MUTANT(n) (__builtin_expect(mutant == (n), 0))
#endif
"""

_LEFT_ALONE = {
    CursorKind.CXX_UNARY_EXPR,  # sizeof
    CursorKind.CASE_STMT,
    CursorKind.ADDR_LABEL_EXPR,
}
_CONDITIONAL = {CursorKind.IF_STMT, CursorKind.WHILE_STMT, CursorKind.CONDITIONAL_OPERATOR}
_STATEMENTS = {
    CursorKind.CALL_EXPR,
    CursorKind.BINARY_OPERATOR,
    CursorKind.COMPOUND_ASSIGNMENT_OPERATOR,
    CursorKind.UNARY_OPERATOR,
}
_JUMPS = {CursorKind.BREAK_STMT, CursorKind.CONTINUE_STMT, CursorKind.RETURN_STMT}


@dataclass(frozen=True)
class Mutant:
    """One thing broken."""

    number: int
    file: str
    function: str
    line: int
    kind: str
    before: str
    after: str
    nth: int
    """Of those of its function that read the same."""

    @property
    def name(self) -> str:
        """The same whatever is written above it in the file."""
        nth = f" #{self.nth}" if self.nth > 1 else ""
        return f"{self.file}:{self.function}: `{self.before}` -> `{self.after}`{nth}"


@dataclass
class Schema:
    """The mutants of some files, numbered from 1."""

    mutants: list[Mutant] = field(default_factory=list)
    _seen: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, file: str, function: str, line: int, kind: str, before: str, after: str) -> int:
        """Number one more."""
        before, after = (" ".join(text.split()) for text in (before, after))
        key = (file, function, before, after)
        nth = self._seen[key] = self._seen.get(key, 0) + 1
        number = len(self.mutants) + 1
        self.mutants.append(Mutant(number, file, function, line, kind, before, after, nth))
        return number

    def rewrite(self, path: Path, *, through: Path | None = None) -> str:
        """The file with all its mutants in it. A header is read by way of a file with it."""
        return _Rewriter(self, path, _parse(through or path)).text()


@cache
def _arguments() -> list[str]:
    command = ["clang", "-print-resource-dir"]
    resources = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return [
        *("-std=gnu11", f"-isystem{resources}/include"),
        *(f"-I{ROOT / folder}" for folder in INCLUDES),
    ]


def _parse(path: Path) -> TranslationUnit:
    options = TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD
    unit = Index.create().parse(str(path), _arguments(), options=options)
    errors = [d for d in unit.diagnostics if d.severity >= d.Error]
    if errors:
        raise SystemExit(f"{path}: {errors[0]}")
    return unit


def _offsets(cursor: Cursor) -> tuple[int, int]:
    return cursor.extent.start.offset, cursor.extent.end.offset


class _Rewriter:
    """One file. `_render()` returns the text of a cursor, mutants included."""

    def __init__(self, schema: Schema, path: Path, unit: TranslationUnit) -> None:
        self._schema = schema
        self._path = path
        self._file = str(path.relative_to(ROOT))
        self._bytes = path.read_bytes()
        self._unit = unit
        self._function = ""
        self._macros: dict[tuple[int, int], str] = {}
        for cursor in unit.cursor.get_children():
            if cursor.kind == CursorKind.MACRO_INSTANTIATION and self._is_here(cursor):
                self._macros[_offsets(cursor)] = cursor.spelling

    def _is_here(self, cursor: Cursor) -> bool:
        file = cursor.location.file
        return file is not None and Path(file.name).resolve() == self._path

    def _source(self, begin: int, end: int) -> str:
        return self._bytes[begin:end].decode()

    def text(self) -> str:
        """All of it."""
        pieces: list[str] = []
        at = 0
        for cursor in self._unit.cursor.get_children():
            if cursor.kind != CursorKind.FUNCTION_DECL or not self._is_here(cursor):
                continue
            body = [c for c in cursor.get_children() if c.kind == CursorKind.COMPOUND_STMT]
            if not body:
                continue
            self._function = cursor.spelling
            begin, end = _offsets(body[0])
            pieces += [self._source(at, begin), self._render(body[0])]
            at = end
        pieces.append(self._source(at, len(self._bytes)))
        text = self._defines("".join(pieces))
        first = re.search(r"^#\s*(include|define)", text, re.MULTILINE)
        assert first is not None
        return text[: first.start()] + PREAMBLE + text[first.start() :]

    # ---- tables and named constants ----

    def _defines(self, text: str) -> str:
        """`#define NAME number`: twice that. A static table of constants: each term left out."""

        def constant(found: re.Match[str]) -> str:
            name, body = found[1], found[2]
            number = self._add_at(text, found.start(), name, "constant", body, f"2 * {body}")
            return f"#define {name} ({body} << MUTANT({number}))"

        text = re.sub(
            r"^#define (\w+) (\d\w*|\([^()\n]*(?:\([^()]*\)[^()\n]*)*\))(?=\s|$)",
            constant,
            text,
            flags=re.MULTILINE,
        )
        return re.sub(
            r"^static const (\w+) (\w+)((?:\[\w+\])+) =\s*(\{.*?^\s*\});$",
            lambda found: self._table(text, found),
            text,
            flags=re.MULTILINE | re.DOTALL,
        )

    def _table(self, text: str, found: re.Match[str]) -> str:
        kind, name, dimensions, body = found.groups()
        body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)

        def term(each: re.Match[str]) -> str:
            number = self._add_at(text, found.start(), name, "constant", each[0], "0")
            return f"(MUTANT({number}) ? 0 : {each[0]})"

        body = re.sub(r"(?<==)\s*TO\(\w+\)|(?<=\|)\s*TO\(\w+\)", term, body)
        return f"#define {name} ((const {kind}{dimensions}){' '.join(body.split())})"

    def _add_at(self, text: str, at: int, function: str, kind: str, before: str, after: str) -> int:
        line = text.count("\n", 0, at) + 1
        return self._schema.add(self._file, function, line, kind, before.strip(), after)

    # ---- cursors ----

    def _add(self, cursor: Cursor, kind: str, before: str, after: str) -> int:
        line = cursor.extent.start.line
        return self._schema.add(self._file, self._function, line, kind, before, after)

    def _own_text(self, cursor: Cursor) -> str:
        return self._source(*_offsets(cursor))

    def _children(self, cursor: Cursor) -> list[Cursor]:
        """Those that lie apart within it, in order."""
        begin, end = _offsets(cursor)
        found: list[Cursor] = []
        at = begin
        for child in sorted(cursor.get_children(), key=_offsets):
            first, last = _offsets(child)
            if self._is_here(child) and first >= at and last <= end and first < last:
                found.append(child)
                at = last
        return found

    def _in_macro(self, cursor: Cursor) -> bool:
        """Whether some of it, or all, came out of a macro."""
        begin, end = _offsets(cursor)
        return any(
            first <= begin < last and not (begin <= first and last < end)
            for first, last in self._macros
        )

    def _render(self, cursor: Cursor) -> str:
        if self._in_macro(cursor):
            return self._macro(cursor)
        if cursor.kind in _LEFT_ALONE:
            return self._own_text(cursor)
        rules: dict[CursorKind, Callable[[Cursor], str]] = {
            CursorKind.BINARY_OPERATOR: self._binary,
            CursorKind.COMPOUND_ASSIGNMENT_OPERATOR: self._assigning,
            CursorKind.UNARY_OPERATOR: self._unary,
            CursorKind.INTEGER_LITERAL: self._literal,
            CursorKind.DECL_REF_EXPR: self._reference,
            CursorKind.COMPOUND_STMT: self._block,
            CursorKind.INIT_LIST_EXPR: self._initializers,
            CursorKind.VAR_DECL: self._variable,
        }
        if cursor.kind in _CONDITIONAL or cursor.kind == CursorKind.FOR_STMT:
            return self._conditional(cursor)
        return rules.get(cursor.kind, self._plain)(cursor)

    def _plain(
        self, cursor: Cursor, instead: Callable[[Cursor], str | None] = lambda _: None
    ) -> str:
        """The text between the children as it is, the children rendered, or otherwise."""
        begin, end = _offsets(cursor)
        pieces = []
        for child in self._children(cursor):
            first, last = _offsets(child)
            other = instead(child)
            pieces += [self._source(begin, first), self._render(child) if other is None else other]
            begin = last
        return "".join([*pieces, self._source(begin, end)])

    def _macro(self, cursor: Cursor) -> str:
        text = self._own_text(cursor)
        if text in ("true", "false"):
            other = "false" if text == "true" else "true"
            return f"({text} ^ MUTANT({self._add(cursor, 'constant', text, other)}))"
        return text

    def _variable(self, cursor: Cursor) -> str:
        if cursor.type.kind == TypeKind.CONSTANTARRAY or cursor.storage_class.name == "STATIC":
            return self._own_text(cursor)
        return self._plain(cursor)

    def _initializers(self, cursor: Cursor) -> str:
        text = self._own_text(cursor)
        return text if re.fullmatch(r"\{\s*0?\s*\}", text) else self._plain(cursor)

    # ---- expressions ----

    def _literal(self, cursor: Cursor) -> str:
        text = self._own_text(cursor)
        pieces = text
        if text != "0":
            number = self._add(cursor, "constant", text, f"{text} + 1")
            pieces = f"({pieces} + MUTANT({number}))"
        if text in ("0", "1"):
            other = "1" if text == "0" else "0"
            number = self._add(cursor, "constant", text, other)
            pieces = f"({pieces} ^ MUTANT({number}))"
        return pieces

    def _reference(self, cursor: Cursor) -> str:
        """A reason that is returned: none instead, or one instead of none."""
        text = self._own_text(cursor)
        if not text.startswith("DROP_") or cursor.referenced.kind != CursorKind.ENUM_CONSTANT_DECL:
            return text
        other = "DROP_RECORD" if text == "DROP_NONE" else "DROP_NONE"
        return f"(MUTANT({self._add(cursor, 'constant', text, other)}) ? {other} : {text})"

    def _operator(self, cursor: Cursor) -> str:
        """What stands between its two operands."""
        left, right = self._children(cursor)
        between = self._source(_offsets(left)[1], _offsets(right)[0])
        return re.sub(r"/\*.*?\*/", "", between, flags=re.DOTALL).strip()

    def _binary(self, cursor: Cursor) -> str:
        children = self._children(cursor)
        if len(children) != 2:
            return self._plain(cursor)
        operator = self._operator(cursor)
        if operator in LOGICAL:
            return self._logical(cursor, operator, *children)
        others = RELATIONAL.get(operator) or (
            (ARITHMETIC[operator],) if operator in ARITHMETIC else ()
        )
        if cursor.type.kind == TypeKind.POINTER:
            others = ()
        if not others:
            return self._plain(cursor)
        kind = "relational" if operator in RELATIONAL else "arithmetic"
        begin = self._own_text(cursor)
        numbers = [
            self._add(cursor, kind, begin, self._with_operator(children, other)) for other in others
        ]
        left, right = (self._render(child) for child in children)
        a, b = f"a{numbers[0]}_", f"b{numbers[0]}_"
        choice = f"{a} {operator} {b}"
        for number, other in zip(numbers, others, strict=True):
            divides = other in ("/", "%")
            instead = f"({b} ? {a} {other} {b} : {a})" if divides else f"({a} {other} {b})"
            choice = f"MUTANT({number}) ? {instead} : ({choice})"
        return f"({{ __auto_type {a} = {left}; __auto_type {b} = {right}; {choice}; }})"

    def _with_operator(self, children: list[Cursor], operator: str) -> str:
        left, right = (self._own_text(child) for child in children)
        return f"{left} {operator} {right}"

    def _logical(self, cursor: Cursor, operator: str, left: Cursor, right: Cursor) -> str:
        """The right operand is evaluated if the operator that is switched on needs it."""
        other = LOGICAL[operator]
        after = self._with_operator([left, right], other)
        number = self._add(cursor, "logical", self._own_text(cursor), after)
        goes_on = "" if operator == "&&" else "!"
        name = f"l{number}_"
        return (
            f"({{ const _Bool {name} = {self._render(left)}; "
            f"(({goes_on}{name}) ^ MUTANT({number})) ? !!({self._render(right)}) : {name}; }})"
        )

    def _assigning(self, cursor: Cursor) -> str:
        children = self._children(cursor)
        operator = self._operator(cursor) if len(children) == 2 else ""
        if operator not in ASSIGNING:
            return self._plain(cursor)
        other = ASSIGNING[operator]
        before, after = self._own_text(cursor), self._with_operator(children, other)
        number = self._add(cursor, "arithmetic", before, after)
        left, right = (self._render(child) for child in children)
        return f"(MUTANT({number}) ? ({left} {other} {right}) : ({left} {operator} {right}))"

    def _unary(self, cursor: Cursor) -> str:
        text = self._own_text(cursor)
        children = self._children(cursor)
        if len(children) != 1:
            return text
        operand = self._own_text(children[0])
        for step, other in STEPS.items():
            if text.startswith(step) or text.endswith(step):
                after = text.replace(step, other)
                number = self._add(cursor, "arithmetic", text, after)
                inside = self._render(children[0])
                whole = [t.replace(operand, inside, 1) for t in (after, text)]
                return f"(MUTANT({number}) ? {whole[0]} : {whole[1]})"
        if text.startswith("!"):
            number = self._add(cursor, "negation", text, operand)
            return f"(!({self._render(children[0])}) ^ MUTANT({number}))"
        return self._plain(cursor)

    # ---- statements ----

    def _conditional(self, cursor: Cursor) -> str:
        children = self._children(cursor)
        if cursor.kind == CursorKind.FOR_STMT:
            condition = self._condition_of_for(cursor, children)
        else:
            condition = children[0]
        bodies = [] if cursor.kind == CursorKind.CONDITIONAL_OPERATOR else children[1:]
        bodies = [b for b in bodies if b is not condition]
        has_else = cursor.kind == CursorKind.IF_STMT and len(children) > 2

        def instead(child: Cursor) -> str | None:
            if condition is not None and child == condition:
                return self._negated(child)
            if child in bodies and (child.kind in _STATEMENTS or child.kind in _JUMPS):
                if cursor.kind == CursorKind.FOR_STMT and child != children[-1]:
                    return None
                return self._statement(child, may_branch=not has_else and self._in_block)
            return None

        return self._plain(cursor, instead)

    _in_block = True
    """Whether the statement that is being rendered stands in a block, where no else follows."""

    def _condition_of_for(self, cursor: Cursor, children: list[Cursor]) -> Cursor | None:
        """What stands between the two semicolons."""
        text = self._own_text(cursor)
        begin = _offsets(cursor)[0]
        first = text.index(";")
        second = text.index(";", first + 1)
        for child in children[:-1]:
            if begin + first < _offsets(child)[0] < begin + second:
                return child
        return None

    def _negated(self, condition: Cursor) -> str:
        """Negated, unless the operator in it stands for that."""
        inside = condition
        while inside.kind in (CursorKind.PAREN_EXPR, CursorKind.UNEXPOSED_EXPR):
            (inside, *rest) = list(inside.get_children()) or [inside]
            if rest:
                break
        text = self._own_text(condition)
        if self._in_macro(condition):
            return self._render(condition)
        if inside.kind == CursorKind.UNARY_OPERATOR and self._own_text(inside).startswith("!"):
            return self._render(condition)
        if inside.kind == CursorKind.BINARY_OPERATOR and self._operator(inside) in RELATIONAL:
            return self._render(condition)
        number = self._add(condition, "negation", text, f"!({text})")
        return f"(!({self._render(condition)}) ^ !MUTANT({number}))"

    def _block(self, cursor: Cursor) -> str:
        def instead(child: Cursor) -> str | None:
            if child.kind in _STATEMENTS or child.kind in _JUMPS:
                return self._statement(child, may_branch=True)
            before, self._in_block = self._in_block, True
            try:
                return self._render(child)
            finally:
                self._in_block = before

        return self._plain(cursor, instead)

    def _statement(self, cursor: Cursor, *, may_branch: bool) -> str:
        """Left out."""
        if self._in_macro(cursor):
            return self._own_text(cursor)
        text = self._own_text(cursor)
        if cursor.kind in _STATEMENTS:
            number = self._add(cursor, "statement", f"{text};", ";")
            return f"(MUTANT({number}) ? (void)0 : (void)({self._render(cursor)}))"
        if not may_branch or (cursor.kind == CursorKind.RETURN_STMT and text != "return"):
            return self._render(cursor)
        number = self._add(cursor, "statement", f"{text};", ";")
        return f"if (!MUTANT({number})) {text}"
