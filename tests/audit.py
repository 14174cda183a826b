# SPDX-License-Identifier: Apache-2.0
"""Who takes a netmem apart, and does he look at what he got? The audit behind docs/audit.md.

Mina Almasry's series came with a list of all callers of skb_frag_page() and of what each of them
does when there is no page. This makes that list, from the syntax trees of the C sources, and finds
what should not be on it:

* the result of an accessor that may be NULL (`ACCESSORS`), used where nothing has shown that it is
  not: neither a look at the result nor at the kind of memory
* an accessor that does not check (`UNCHECKED`), where nothing has shown the kind
* netmem_ref's bits, or an address of it or of a descriptor that is made of something else or into
  something else, outside netmem.h; in a union, too, and through a pointer to an accessor

It follows one function at a time, in the order of its statements, with what the conditions on the
way have shown (`Facts`). A function that hands on what may be NULL becomes an accessor itself. What
may be NULL is kept in variables of the function and nowhere else: to store it is a use.

    ./dev audit           write docs/audit.md; fail when there are findings
    ./dev audit --check   fail also when docs/audit.md is not what would be written
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from clang.cindex import (
    Cursor,
    CursorKind,
    Index,
    StorageClass,
    TranslationUnit,
    TypeKind,
    conf,
)

from .arguments import Arguments
from .page import write

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs/audit.md"
HOME = "stack/netmem.h"
"""Where netmem's bits may be looked at."""
SOURCES = ("stack/*.c", "agent/**/*.c", "pyxdp/**/*.c")
INCLUDES = ("stack", "jump_label", "xdp_prog", "agent", "agent/bench", "pyxdp")
FORMS = ("OFF", "PLAIN", "STATIC")

# Accessor -> the kind of memory that it does not answer with NULL; None: it always may.
ACCESSORS: dict[str, str | None] = {
    "netmem_to_page": "page",
    "netmem_to_net_iov": "net_iov",
    "netmem_address": "page",
    "skb_frag_page": "page",
    "skb_frag_net_iov": "net_iov",
    "skb_frag_address": "page",
    "skb_frag_address_safe": None,
    "virt_to_page": None,
}
UNCHECKED = {
    "__netmem_to_page": "page",
    "__netmem_to_net_iov": "net_iov",
    "__netmem_to_nmdesc": "page",
    "__netmem_get_pp": "page",
    "__netmem_address": "page",
}
KIND_TESTS = {"netmem_is_net_iov", "skb_frag_is_net_iov"}
# They need no check: for either kind they have an answer.
FOR_BOTH = {
    "netmem_to_nmdesc",
    "netmem_get_pp",
    "netmem_get_pp_ref_count_ref",
    "netmem_get_dma_addr",
    "netmem_set_dma_addr",
    "skb_frag_dma_map",
    "net_iov_virtual_addr",
}
DESCRIPTORS = {"struct page", "struct net_iov", "struct netmem_desc"}
HOLDERS = {"netmem_ref", "struct skb_frag"}
OTHER_KIND = {"page": "net_iov", "net_iov": "page"}
STABLE = re.compile(r"[\w.&\[\]]+|skb_frag_netmem\([\w.&\[\]]+\)")
KEPT = {StorageClass.STATIC, StorageClass.EXTERN}
EXITS = {CursorKind.RETURN_STMT, CursorKind.BREAK_STMT, CursorKind.CONTINUE_STMT} | {
    CursorKind.GOTO_STMT
}
_LAYS_OUT = "lays its descriptors out in the memory that it is given"
# (file, function) -> why it may do what is a finding elsewhere.
ALLOWED = {
    ("stack/frag_tracker.c", "buffer_number"): "tells by the address alone which buffer it is: "
    "what lies in a broken pool may be anything, and must not be followed",
    ("stack/device_provider.c", "device_provider_init"): _LAYS_OUT,
    ("stack/host_provider.c", "host_provider_init"): _LAYS_OUT,
}
# What they make of NULL is no memory (NETMEM_NONE), which netmem_is_none() is there for.
TAKE_NULL = {"page_to_netmem"}
NORETURN = {"abort", "exit", "_exit", "__assert_fail"}

# enum CXUnaryOperatorKind and CXBinaryOperatorKind, which the Python binding does not name
DEREF, ADDRESS_OF, NOT = 6, 5, 10
STEPS = {1, 2, 3, 4}  # ++ and --, before and behind
EQUAL, NOT_EQUAL, AND, OR, ASSIGN, COMMA = 15, 16, 20, 21, 22, 33


@dataclass(frozen=True, order=True)
class Guard:
    """A condition that showed something: its place, and the value for which it did."""

    file: str
    start: int
    end: int
    value: bool


Fact = tuple[str, str]
"""("page" or "net_iov", of which expression) or ("set", which pointer is not NULL)."""
Facts = dict[Fact, Guard]


@dataclass(frozen=True, order=True)
class Use:
    """One place where something is taken apart."""

    file: str
    function: str
    accessor: str
    argument: str
    handled: str
    """How its NULL is: empty, as long as it is not."""
    line: int


@dataclass(frozen=True, order=True)
class Finding:
    """What must not be."""

    file: str
    line: int
    function: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.function}(): {self.what}"


@dataclass
class Audit:
    """All that was found."""

    uses: set[Use] = field(default_factory=set)
    findings: set[Finding] = field(default_factory=set)
    guards: set[Guard] = field(default_factory=set)
    """The conditions that something was used on the strength of: without one, it is a finding."""
    accessors: dict[str, str | None] = field(default_factory=lambda: dict(ACCESSORS))
    """The ones above, and the functions that hand their answer on."""


@dataclass
class State:
    """What is known at one point of a function."""

    facts: Facts = field(default_factory=dict)
    nullable: dict[str, Use] = field(default_factory=dict)
    """Variables that hold what an accessor answered."""
    aliases: dict[str, tuple[Facts, Facts]] = field(default_factory=dict)
    """Boolean variables: what it shows when one is true, and when it is false."""

    def with_facts(self, more: Facts) -> State:
        """The same with more facts."""
        return State({**self.facts, **more}, dict(self.nullable), dict(self.aliases))

    def forget(self, name: str) -> None:
        """Something was assigned to: nothing that was known of it holds."""
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")

        def others(facts: Facts) -> Facts:
            return {fact: guard for fact, guard in facts.items() if not word.search(fact[1])}

        self.facts = others(self.facts)
        self.nullable.pop(name, None)
        self.aliases = {
            alias: (others(yes), others(no))
            for alias, (yes, no) in self.aliases.items()
            if alias != name
        }

    def merge(self, other: State) -> State:
        """What is known where two ways meet."""
        facts = {fact: guard for fact, guard in self.facts.items() if fact in other.facts}
        aliases = {k: v for k, v in self.aliases.items() if other.aliases.get(k) == v}
        return State(facts, {**other.nullable, **self.nullable}, aliases)


# ---- what the binding lacks ----


def _operator(cursor: Cursor) -> int:
    if cursor.kind == CursorKind.UNARY_OPERATOR:
        return int(conf.lib.clang_getCursorUnaryOperatorKind(cursor))
    if cursor.kind == CursorKind.BINARY_OPERATOR:
        return int(conf.lib.clang_getCursorBinaryOperatorKind(cursor))
    return 0


@cache
def _declare() -> None:
    """Types of the functions of libclang that its Python binding does not know."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, argument, result in (
        ("clang_getCursorUnaryOperatorKind", Cursor, number),
        ("clang_getCursorBinaryOperatorKind", Cursor, number),
        ("clang_Cursor_Evaluate", Cursor, pointer),
        ("clang_EvalResult_getAsInt", pointer, number),
        ("clang_EvalResult_dispose", pointer, None),
    ):
        function = getattr(conf.lib, name)
        function.argtypes, function.restype = [argument], result


def _offset(location: Any) -> int:
    """In its file: for a macro's argument where that was written, not where the macro begins."""
    offset = ctypes.c_uint()
    conf.lib.clang_getFileLocation(location, None, None, None, ctypes.byref(offset))
    return offset.value


def _is_none(initializers: Cursor) -> bool:
    """NETMEM_NONE, all zeros: the one netmem_ref that may be made of its bits anywhere."""
    *_, last = initializers.walk_preorder()
    if last == initializers:
        return True
    if last.kind != CursorKind.INTEGER_LITERAL:
        return False
    result = conf.lib.clang_Cursor_Evaluate(last)
    value = conf.lib.clang_EvalResult_getAsInt(result)
    conf.lib.clang_EvalResult_dispose(result)
    return bool(value == 0)


def _strip(cursor: Cursor) -> Cursor:
    """Without parentheses, implicit casts, __builtin_expect(), and `({ ...; x; })` around x."""
    while True:
        children = list(cursor.get_children())
        if cursor.kind in (CursorKind.PAREN_EXPR, CursorKind.UNEXPOSED_EXPR) and len(children) == 1:
            cursor = children[0]
        elif cursor.kind == CursorKind.CALL_EXPR and cursor.spelling == "__builtin_expect":
            cursor = next(iter(cursor.get_arguments()))
        else:
            return cursor


def _text(cursor: Cursor) -> str:
    """An expression's text, the same for all spellings of the same one."""
    cursor = _strip(cursor)
    children = list(cursor.get_children())
    if cursor.kind == CursorKind.MEMBER_REF_EXPR and children:
        return f"{_text(children[0]).removeprefix('&')}.{cursor.spelling}"
    if cursor.kind == CursorKind.CALL_EXPR:
        return f"{cursor.spelling}({', '.join(map(_text, cursor.get_arguments()))})"
    if _operator(cursor) == ADDRESS_OF:
        return f"&{_text(children[0])}"
    if cursor.kind == CursorKind.ARRAY_SUBSCRIPT_EXPR:
        return f"{_text(children[0])}[{_text(children[1])}]"
    if cursor.spelling:
        return str(cursor.spelling)
    return f"{cursor.kind.name}({', '.join(map(_text, children))})"


def _netmem(call: Cursor) -> str:
    """The netmem that a call is about: skb_frag_*() take the frag that it is in."""
    arguments = list(call.get_arguments())
    text = _text(arguments[-1]) if arguments else ""
    return f"{text.removeprefix('&')}.netmem" if call.spelling.startswith("skb_frag") else text


def _is_null(cursor: Cursor) -> bool:
    """0, or (void *)0: who compares a pointer with another number does not compile."""
    cursor = _strip(cursor)
    if cursor.kind == CursorKind.CSTYLE_CAST_EXPR and _void_pointer(cursor.type):
        return _is_null(list(cursor.get_children())[-1])
    return bool(cursor.kind == CursorKind.INTEGER_LITERAL)


def _names_member(initializer: Cursor) -> bool:
    first = next(initializer.get_children(), None)
    return first is not None and first.kind == CursorKind.MEMBER_REF


def _is_variable(cursor: Cursor) -> bool:
    return cursor.kind == CursorKind.DECL_REF_EXPR and cursor.referenced.kind in (
        CursorKind.VAR_DECL,
        CursorKind.PARM_DECL,
    )


# ---- one function ----


class Walk:
    """Follows a function's statements and writes down what it sees."""

    def __init__(self, function: Cursor, file: str, audit: Audit) -> None:
        self._function = function
        self._file = file
        self._audit = audit
        self._kept: list[tuple[str, Use]] = []
        """Variables that were given what may be NULL, so far."""
        self._returns: set[str] = set()

    def run(self) -> None:
        """From its first statement to its last."""
        body = next(c for c in self._function.get_children() if c.kind == CursorKind.COMPOUND_STMT)
        self._statement(body, State())
        if self._returns == {"NULL", "memory"}:
            self._audit.accessors.setdefault(self._function.spelling, None)

    # -- what is written down --

    def _use(self, cursor: Cursor, handled: str) -> Use:
        use = Use(
            self._file,
            self._function.spelling,
            cursor.spelling,
            _netmem(cursor),
            handled,
            cursor.location.line,
        )
        if handled:
            self._audit.uses.add(use)
        return use

    def _handled(self, use: Use, how: str) -> None:
        self._audit.uses.add(replace(use, handled=how))

    def _found(self, cursor: Cursor, what: str) -> None:
        if (self._file, self._function.spelling) in ALLOWED:
            return
        self._audit.findings.add(
            Finding(self._file, cursor.location.line, self._function.spelling, what)
        )

    def _known(self, call: Cursor, guard: Guard) -> None:
        self._use(call, "kind known")
        self._audit.guards.add(guard)

    def _misused(self, cursor: Cursor, use: Use) -> None:
        self._found(cursor, f"{use.accessor}({use.argument}) may be NULL here")

    def _guard(self, cursor: Cursor, value: bool) -> Guard:
        return Guard(self._file, _offset(cursor.extent.start), _offset(cursor.extent.end), value)

    # -- statements: the state after one, None when there is no after --

    def _statement(self, stmt: Cursor, state: State) -> State | None:
        kind, children = stmt.kind, list(stmt.get_children())
        if kind == CursorKind.COMPOUND_STMT:
            return self._sequence(children, state)
        if kind == CursorKind.IF_STMT:
            return self._if(children, state)
        if kind in (CursorKind.WHILE_STMT, CursorKind.FOR_STMT, CursorKind.DO_STMT):
            return self._loop(stmt, children, state)
        if kind in (CursorKind.SWITCH_STMT, CursorKind.CASE_STMT, CursorKind.DEFAULT_STMT):
            return self._switch(children, state)
        if kind == CursorKind.LABEL_STMT:
            return self._sequence(children, State(nullable=state.nullable | dict(self._kept)))
        if kind == CursorKind.DECL_STMT:
            for declaration in children:
                self._declaration(declaration, state)
            return state
        if kind == CursorKind.RETURN_STMT:
            for value in children:
                self._return(value, state)
            return None
        if kind in EXITS:
            return None
        self._expression(stmt, state)
        return None if kind == CursorKind.CALL_EXPR and stmt.spelling in NORETURN else state

    def _sequence(self, statements: Iterable[Cursor], state: State | None) -> State | None:
        for stmt in statements:
            # What no way leads to is looked at all the same, as if nothing were known.
            state = self._statement(stmt, state if state is not None else State())
        return state

    def _if(self, parts: list[Cursor], state: State) -> State | None:
        yes, no = self._condition(parts[0], state)
        then = self._statement(parts[1], state.with_facts(yes))
        other: State | None = state.with_facts(no)
        if len(parts) > 2 and other is not None:
            other = self._statement(parts[2], other)
        if then is None or other is None:
            return other if then is None else then
        return then.merge(other)

    def _loop(self, stmt: Cursor, parts: list[Cursor], state: State) -> State:
        before = dict(state.nullable)
        for target in _changed(stmt):
            _forget(target, state)
        body = parts[0] if stmt.kind == CursorKind.DO_STMT else parts[-1]
        known = len(self._kept)
        for _ in range(2):  # the second time with what the first has left in variables
            inside = state
            for part in parts:
                if part != body and part.kind != CursorKind.DECL_STMT:
                    yes, _no = self._condition(part, inside)
                    inside = inside.with_facts(yes)
                elif part != body:
                    self._statement(part, inside)
            self._statement(body, inside.with_facts({}))
            state.nullable |= before | dict(self._kept[known:])
        return state

    def _switch(self, parts: list[Cursor], state: State) -> State:
        self._expression(parts[0], state)
        for part in parts[1:]:
            self._statement(part, state.with_facts({}))
        for part in parts:
            for target in _changed(part):
                _forget(target, state)
        return state

    def _declaration(self, declaration: Cursor, state: State) -> None:
        if declaration.kind != CursorKind.VAR_DECL:
            return
        state.forget(declaration.spelling)
        values = [c for c in declaration.get_children() if c.kind.is_expression()]
        if values:
            self._assign(declaration.spelling, declaration.type, values[-1], state)

    def _assign(self, name: str, type_: Any, value: Cursor, state: State) -> None:
        if type_.get_canonical().kind == TypeKind.BOOL:
            shown = self._condition(value, state)
            state.forget(name)
            state.aliases[name] = shown
            return
        use = self._expression(value, state)
        state.forget(name)
        if use is not None:
            state.nullable[name] = use
            self._kept.append((name, use))

    def _return(self, value: Cursor, state: State) -> None:
        use = self._expression(value, state)
        if use is None:
            self._returns |= {"NULL"} if _is_null(value) else set()
            asked = _strip(value).spelling in self._audit.accessors.keys() | UNCHECKED.keys()
            self._returns |= {"memory"} if asked else set()
            return
        self._handled(use, "handed on to the caller")
        # The kind that the caller would have to know is not his to see: it always may be NULL.
        self._audit.accessors.setdefault(self._function.spelling, None)

    # -- conditions: what is shown when one is true, and when it is false --

    def _condition(self, cursor: Cursor, state: State) -> tuple[Facts, Facts]:
        cursor = _strip(cursor)
        children = list(cursor.get_children())
        operator = _operator(cursor)
        if operator == NOT:
            yes, no = self._condition(children[0], state)
            return no, yes
        if operator in (AND, OR):
            return self._both(operator, children, state)
        if operator in (EQUAL, NOT_EQUAL) and any(map(_is_null, children)):
            subject = children[1] if _is_null(children[0]) else children[0]
            yes, no = self._condition(subject, state)
            return (no, yes) if operator == EQUAL else (yes, no)
        if cursor.kind == CursorKind.StmtExpr:
            return self._statement_expression(children[0], state)
        if cursor.kind == CursorKind.CALL_EXPR:
            return self._called(cursor, state)
        return self._looked_at(cursor, state)

    def _both(self, operator: int, sides: list[Cursor], state: State) -> tuple[Facts, Facts]:
        yes, no = self._condition(sides[0], state)
        yes2, no2 = self._condition(sides[1], state.with_facts(yes if operator == AND else no))
        if operator == AND:
            return {**yes, **yes2}, {fact: g for fact, g in no.items() if fact in no2}
        return {fact: g for fact, g in yes.items() if fact in yes2}, {**no, **no2}

    def _statement_expression(self, body: Cursor, state: State) -> tuple[Facts, Facts]:
        """As of NETMEM_WARN_ON_ONCE(): its last statement is its value."""
        *before, last = body.get_children()
        inside = self._sequence(before, state.with_facts({})) or state
        return self._condition(last, inside)

    def _called(self, call: Cursor, state: State) -> tuple[Facts, Facts]:
        name = call.spelling
        for argument in call.get_arguments():
            self._argument(argument, state)
        if name in KIND_TESTS:
            subject = _netmem(call)
            if "(" in subject and not STABLE.fullmatch(subject):
                return {}, {}  # the next call may answer with another
            return (
                {("net_iov", subject): self._guard(call, True)},
                {("page", subject): self._guard(call, False)},
            )
        if name not in self._audit.accessors or name in UNCHECKED:
            self._expression(call, state, arguments=False)
            return {}, {}
        guard = self._guard(call, True)
        self._use(call, "looked at")
        return self._kinds(name, _netmem(call), guard)

    def _kinds(self, accessor: str, subject: str, guard: Guard) -> tuple[Facts, Facts]:
        """An answer is of its kind; none means the other kind, for who has no other reason."""
        kind = self._audit.accessors[accessor]
        if kind is None:
            return {}, {}
        return {(kind, subject): guard}, {(OTHER_KIND[kind], subject): replace(guard, value=False)}

    def _looked_at(self, cursor: Cursor, state: State) -> tuple[Facts, Facts]:
        name = _text(cursor)
        if _is_variable(cursor) and name in state.aliases:
            return state.aliases[name]
        if not _is_variable(cursor) or name not in state.nullable:
            self._expression(cursor, state)
            return {}, {}
        use, guard = state.nullable[name], self._guard(cursor, True)
        self._handled(use, "looked at")
        yes, no = self._kinds(use.accessor, use.argument, guard)
        return {("set", name): guard, **yes}, no

    # -- expressions: the use whose answer, perhaps NULL, the value is; else None --

    def _expression(self, cursor: Cursor, state: State, *, arguments: bool = True) -> Use | None:
        cursor = _strip(cursor)
        children = list(cursor.get_children())
        kind, operator = cursor.kind, _operator(cursor)
        if kind == CursorKind.CALL_EXPR:
            return self._call(cursor, state, arguments)
        if kind == CursorKind.DECL_REF_EXPR:
            return self._variable(cursor.spelling, state)
        if kind == CursorKind.CONDITIONAL_OPERATOR:
            yes, no = self._condition(children[0], state)
            first = self._expression(children[1], state.with_facts(yes))
            second = self._expression(children[2], state.with_facts(no))
            return first or second
        if operator == ASSIGN:
            return self._assignment(children, state)
        if operator == COMMA:
            self._expression(children[0], state)
            return self._expression(children[1], state)
        if operator in STEPS or kind == CursorKind.COMPOUND_ASSIGNMENT_OPERATOR:
            return self._step(children, state)
        if operator in (AND, OR, NOT, EQUAL, NOT_EQUAL):
            self._comparison(cursor, children, state)
            return None
        if kind == CursorKind.CSTYLE_CAST_EXPR and children:
            return self._expression(children[-1], state)
        if kind == CursorKind.StmtExpr:
            self._statement(children[0], state)
            return None
        uses = (
            kind
            in (
                CursorKind.MEMBER_REF_EXPR,
                CursorKind.ARRAY_SUBSCRIPT_EXPR,
                CursorKind.INIT_LIST_EXPR,  # stores it
            )
            or operator == DEREF
            or (operator == ADDRESS_OF and _is_variable(_strip(children[0])))
        )
        for child in children:
            if child.kind.is_expression():
                if kind == CursorKind.INIT_LIST_EXPR:  # `.member = value`
                    *_, child = child.get_children() if _names_member(child) else (child,)
                use = self._expression(child, state)
                if use is not None and uses:
                    self._misused(cursor, use)
            elif child.kind.is_statement():
                self._statement(child, state)
        return None

    def _variable(self, name: str, state: State) -> Use | None:
        use, guard = state.nullable.get(name), state.facts.get(("set", name))
        if use is None or guard is None:
            return use
        self._audit.guards.add(guard)
        return None

    def _comparison(self, cursor: Cursor, sides: list[Cursor], state: State) -> None:
        if _operator(cursor) in (EQUAL, NOT_EQUAL) and not any(map(_is_null, sides)):
            for side in sides:  # with another pointer: NULL equals none that is one
                use = self._expression(side, state)
                if use is not None:
                    self._handled(use, "compared")
        else:
            self._condition(cursor, state)

    def _assignment(self, sides: list[Cursor], state: State) -> Use | None:
        target = _strip(sides[0])
        if _is_variable(target) and target.referenced.storage_class not in KEPT:
            self._assign(target.spelling, target.type, sides[1], state)
            return state.nullable.get(target.spelling)
        self._expression(target, state)
        use = self._expression(sides[1], state)
        if use is not None:
            self._misused(sides[1], use)
        _forget(target, state)
        return None

    def _step(self, sides: list[Cursor], state: State) -> Use | None:
        """The variable is another, and NULL plus something is as bad."""
        target = _strip(sides[0])
        uses = [self._expression(side, state) for side in sides]
        name = _text(target)
        kept = state.nullable.get(name)
        _forget(target, state)
        if kept is not None:
            state.nullable[name] = kept
        return next((use for use in uses if use is not None), None)

    def _call(self, call: Cursor, state: State, arguments: bool) -> Use | None:
        name = call.spelling
        for argument in call.get_arguments() if arguments else ():
            (self._none if name in TAKE_NULL else self._argument)(argument, state)
        for target in _lent(call):
            _forget(target, state)
        if name in FOR_BOTH:
            self._use(call, "of either kind")
        if name in UNCHECKED:
            guard = state.facts.get((UNCHECKED[name], _netmem(call)))
            if guard is None:
                self._found(call, f"{name}() of what was not shown to be a {UNCHECKED[name]}")
            else:
                self._known(call, guard)
            return None
        if name not in self._audit.accessors:
            return None
        wanted = self._audit.accessors[name]
        guard = state.facts.get((wanted, _netmem(call))) if wanted else None
        if guard is None:
            return self._use(call, "")
        self._known(call, guard)
        return None

    def _argument(self, argument: Cursor, state: State) -> None:
        use = self._expression(argument, state)
        if use is not None:
            self._misused(argument, use)

    def _none(self, argument: Cursor, state: State) -> None:
        use = self._expression(argument, state)
        if use is not None:
            self._handled(use, "no memory")


# ---- without a look at the way: what is nowhere right ----


class Shapes:
    """netmem_ref's word, ways round it, and ways round the accessors."""

    def __init__(self, file: str, audit: Audit) -> None:
        self._file, self._audit = file, audit
        self._function = ""

    def look(self, declaration: Cursor) -> None:
        """At all that is in a declaration at the top of a file."""
        self._function = declaration.spelling
        callees = set()
        for each in declaration.walk_preorder():
            if each.kind == CursorKind.CALL_EXPR:
                callee = _strip(next(each.get_children(), each))
                callees.add(callee.hash)
            what = self._wrong(each, called=each.hash in callees)
            if what and (self._file, self._function) not in ALLOWED:
                line = each.location.line
                self._audit.findings.add(Finding(self._file, line, self._function, what))

    def _wrong(self, cursor: Cursor, *, called: bool) -> str:
        kind = cursor.kind
        if kind in (CursorKind.MEMBER_REF_EXPR, CursorKind.MEMBER_REF) and (
            cursor.spelling == "bits" and _file_of(cursor.referenced.semantic_parent) == HOME
        ):
            return "looks at the bits of a netmem_ref"
        if kind == CursorKind.INIT_LIST_EXPR and _name(cursor.type) == "netmem_ref":
            return "" if _is_none(cursor) else "makes a netmem_ref of its bits"
        if kind == CursorKind.FIELD_DECL and _name(cursor.type) in HOLDERS:
            in_union = cursor.semantic_parent.kind == CursorKind.UNION_DECL
            return "keeps a netmem_ref in a union" if in_union else ""
        if kind in (CursorKind.CSTYLE_CAST_EXPR, CursorKind.UNEXPOSED_EXPR):
            return self._cast(cursor)
        names = self._audit.accessors.keys() | UNCHECKED.keys()
        if kind == CursorKind.DECL_REF_EXPR and cursor.spelling in names and not called:
            function = cursor.referenced.kind == CursorKind.FUNCTION_DECL
            return f"has {cursor.spelling}() called through a pointer" if function else ""
        return ""

    def _cast(self, cursor: Cursor) -> str:
        """Allocated memory, a void pointer, may become what it is for; nothing else becomes it."""
        *_, operand = cursor.get_children()
        to, source = cursor.type.get_canonical(), operand.type.get_canonical()
        if cursor.kind == CursorKind.CSTYLE_CAST_EXPR:
            source = _strip(operand).type.get_canonical()
        if source.kind in (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY):
            return ""
        into, out_of = _special(to), _special(source)
        if into == out_of or to.kind == TypeKind.VOID or (into and _void_pointer(source)):
            return ""
        return f"casts {source.spelling} to {to.spelling}"


def _name(type_: Any) -> str:
    return str(type_.get_canonical().spelling.removeprefix("const "))


def _special(type_: Any) -> str:
    """The name of what is pointed to, if that is a descriptor, or what holds a netmem."""
    name = _name(type_.get_pointee()) if type_.kind == TypeKind.POINTER else ""
    return name if name in DESCRIPTORS | HOLDERS else ""


def _void_pointer(type_: Any) -> bool:
    return bool(type_.kind == TypeKind.POINTER and type_.get_pointee().kind == TypeKind.VOID)


def _forget(target: Cursor, state: State) -> None:
    """What was assigned to; of what a pointer points to, all that the pointer leads to."""
    if _operator(target) == DEREF:
        target = _strip(next(target.get_children()))
    state.forget(_text(target).removeprefix("&"))


def _changed(cursor: Cursor) -> Iterator[Cursor]:
    """What is assigned to somewhere inside, or may be, by who is given its address."""
    for each in cursor.walk_preorder():
        assigned = _operator(each) in STEPS | {ASSIGN}
        if assigned or each.kind == CursorKind.COMPOUND_ASSIGNMENT_OPERATOR:
            yield _strip(next(each.get_children()))
        elif each.kind == CursorKind.CALL_EXPR:
            yield from _lent(each)


def _lent(call: Cursor) -> Iterator[Cursor]:
    """Whose address a function gets that may write there."""
    for argument in call.get_arguments():
        pointer = argument.type.get_canonical()
        inner = _strip(argument)
        if _operator(inner) == ADDRESS_OF and not pointer.get_pointee().is_const_qualified():
            yield _strip(next(inner.get_children()))


# ---- all of them ----


def _file_of(cursor: Cursor) -> str:
    file = cursor.location.file
    if file is None:
        return ""
    path = Path(file.name).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


@cache
def _compiler_headers() -> str:
    """Where clang's stddef.h is: libclang of PyPI comes without. gcc's stdatomic.h will not do."""
    command = ["clang", "-print-resource-dir"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"{done.stdout.strip()}/include"


def _arguments(form: str) -> list[str]:
    return [
        "-std=gnu11",
        "-D_GNU_SOURCE",
        f"-DNETMEM_CHECK=NETMEM_CHECK_{form}",
        f"-isystem{_compiler_headers()}",
        *(f"-I{ROOT / folder}" for folder in INCLUDES),
    ]


def _parse(path: Path, form: str, texts: Mapping[str, str]) -> TranslationUnit | None:
    """None: it does not include netmem.h, so there is nothing that it could take apart."""
    if not _knows(path, texts):
        return None
    unsaved = [(str(ROOT / name), text) for name, text in texts.items()]
    unit = Index.create().parse(str(path), _arguments(form), unsaved_files=unsaved)
    errors = [d for d in unit.diagnostics if d.severity >= d.Error]
    if errors:
        raise SystemExit(f"{path}: {errors[0]}")
    return unit


def _knows(path: Path, texts: Mapping[str, str]) -> bool:
    """Whether it includes netmem.h, or what does."""
    seen: set[Path] = set()
    ways = [path]
    while ways:
        way = ways.pop()
        if way == ROOT / HOME:
            return True
        if way in seen or not (way.exists() or _in_checkout(way) in texts):
            continue
        seen.add(way)
        text = texts.get(_in_checkout(way)) or way.read_text()
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE):
            ways += [folder / name for folder in (way.parent, *(ROOT / each for each in INCLUDES))]
    return False


def _in_checkout(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


def sources() -> list[Path]:
    """The files that are looked through; what they include, below this folder, is too."""
    return sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))


def _declarations(unit: TranslationUnit) -> Iterator[tuple[Cursor, str]]:
    for cursor in unit.cursor.get_children():
        file = _file_of(cursor)
        if file and file != HOME and not file.startswith("build"):
            yield cursor, file


def audit(
    texts: Mapping[str, str] | None = None,
    *,
    only: Iterable[Path] | None = None,
    forms: Iterable[str] = FORMS,
) -> Audit:
    """Look through all sources. `texts` stands in for files, by their names in the checkout."""
    _declare()
    parsed = [_parse(path, form, texts or {}) for path in (only or sources()) for form in forms]
    units = [unit for unit in parsed if unit is not None]
    result = Audit()
    while True:  # until no more functions turn out to hand a NULL on
        known = len(result.accessors)
        result.uses.clear()
        result.findings.clear()
        result.guards.clear()
        seen: set[tuple[str, int]] = set()
        for unit in units:
            for declaration, file in _declarations(unit):
                place = (file, _offset(declaration.location))
                if place not in seen:  # a header's, of another unit
                    seen.add(place)
                    Shapes(file, result).look(declaration)
                if declaration.kind == CursorKind.FUNCTION_DECL and declaration.is_definition():
                    Walk(declaration, file, result).run()
        if len(result.accessors) == known:
            return result


def report(result: Audit) -> str:
    """docs/audit.md."""
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<!-- Made by ./dev audit: do not edit. -->",
        "# Who takes a netmem apart",
        "",
        "Every function of the C sources that asks a `netmem_ref` or a frag for its page, its "
        "net_iov or its address,",
        "and what becomes of the NULL that it may get. `tests/audit.py` says how that is found "
        "out, and the tests fail",
        "when one does not look.",
        "",
        "| NULL | means |",
        "|---|---|",
        "| looked at | the answer is tested before it is used |",
        "| kind known | the kind of memory was tested before: there is no NULL |",
        "| compared | with another pointer only |",
        "| no memory | becomes NETMEM_NONE |",
        "| handed on | to the caller, who is in this list for it |",
        "| of either kind | the accessor has an answer for both kinds |",
        "",
        "| file | function | asks | of | NULL |",
        "|---|---|---|---|---|",
    ]
    rows = {(u.file, u.function, u.accessor, u.argument, u.handled) for u in result.uses}
    for file, function, accessor, argument, handled in sorted(rows):
        handled = handled.removesuffix(" to the caller")
        lines.append(f"| {file} | `{function}` | `{accessor}` | `{argument}` | {handled} |")
    lines += ["", "## Allowed", ""]
    lines += [f"* `{function}` in {file} {why}." for (file, function), why in ALLOWED.items()]
    lines += ["", "## Findings", ""]
    lines += [f"* {finding}" for finding in sorted(result.findings)] or ["None."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command: 0, or 1 when there are findings, or docs/audit.md is out of date."""
    parser = Arguments("audit", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="do not write docs/audit.md")
    check = parser.given().check
    result = audit()
    text = report(result)
    for finding in sorted(result.findings):
        print(finding)
    stale = not REPORT.exists() or REPORT.read_text() != text
    if not check:
        write(REPORT, text)
    elif stale:
        print(f"{REPORT.relative_to(ROOT)} is not up to date: run ./dev audit")
    return 1 if result.findings or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
