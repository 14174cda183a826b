# SPDX-License-Identifier: Apache-2.0
"""The audit of docs/audit.md: it is true, and it would see a check that is missing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("clang.cindex", reason="needs libclang, of PyPI")

from .. import audit

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "stack/audited.c"
HEAD = """\
#include "page_pool.h"
#include "skb_frag.h"
void *consume(const void *p);
"""


# Where the forms differ, or might: what handles device memory, and what hands both kinds out.
PROVIDERS = [ROOT / f"stack/{name}.c" for name in ("device_provider", "host_provider", "page_pool")]


@cache
def whole() -> Any:
    return audit.audit()


def test_the_tree_has_no_findings() -> None:
    assert sorted(map(str, whole().findings)) == []


def test_the_report_is_what_is_in_docs() -> None:
    assert audit.report(whole()) == audit.REPORT.read_text(), "run ./dev audit"


def test_every_form_of_the_check_is_seen_through() -> None:
    off, plain, static = (
        {(u.file, u.function, u.accessor) for u in audit.audit(only=PROVIDERS, forms=[form]).uses}
        for form in audit.FORMS
    )
    assert plain == static
    # What handles device memory is no part of that build.
    assert {file for file, *_ in plain - off} == {"stack/device_provider.c"}
    assert off <= plain


def test_every_source_that_may_know_netmem_is_looked_through() -> None:
    """Tests may do what is wrong, to see what happens."""
    knows = {
        path
        for path in ROOT.glob("*/**/*.c")
        if path.relative_to(ROOT).parts[0] in {"agent", "netlink", "pyxdp", "stack"}
    }
    assert knows == set(audit.sources())


# It includes every header of the stack.
INCLUDER = ROOT / "stack/stack.c"


def test_without_any_one_of_its_checks_the_tree_has_a_finding() -> None:
    """Each condition that something relies on is replaced by what it would have shown."""
    guards = sorted(whole().guards)
    assert len(guards) >= 8
    blind = []
    for guard in guards:
        path = ROOT / guard.file
        text = path.read_bytes()
        changed = text[: guard.start] + (b"1" if guard.value else b"0") + text[guard.end :]
        only = [path] if path.suffix == ".c" else [INCLUDER]
        found = audit.audit({guard.file: changed.decode()}, only=only, forms=["PLAIN"]).findings
        if not found:
            blind.append(f"{guard.file}: {text[guard.start : guard.end].decode()}")
    assert blind == []


def findings(body: str) -> list[str]:
    """Of one function, which gets a netmem, a frag and a pool."""
    text = f"""{HEAD}
int f(netmem_ref netmem, const skb_frag_t *frag, struct page_pool *pool);
int f(netmem_ref netmem, const skb_frag_t *frag, struct page_pool *pool)
{{
{body}
	return 0;
}}
"""
    result = audit.audit({SOURCE: text}, only=[ROOT / SOURCE], forms=["PLAIN"])
    return [finding.what for finding in result.findings if finding.file == SOURCE]


@pytest.mark.parametrize(
    "body",
    [
        # a look at the answer
        "struct page *p = netmem_to_page(netmem); if (p) get_page(p);",
        "struct page *p = netmem_to_page(netmem); if (!p) return 1; get_page(p);",
        "struct page *p = netmem_to_page(netmem); if (p == NULL) return 1; get_page(p);",
        "struct page *p = netmem_to_page(netmem); if (p != NULL && p->pp) return 1;",
        "struct page *p = netmem_to_page(netmem); return p ? p->_refcount : 0;",
        "struct page *p; p = skb_frag_page(frag); if (!p || p->flags) return 1;",
        "struct page *p; p = netmem_to_page(netmem); while (!p) return 1;",
        "char *va = skb_frag_address(frag); if (va) *va = 0;",
        "bool is_page = netmem_to_page(netmem) != NULL; return is_page;",
        # a look at the kind
        "if (netmem_is_net_iov(netmem)) return net_iov_idx(netmem_to_net_iov(netmem));",
        "if (!netmem_is_net_iov(netmem)) get_page(netmem_to_page(netmem));",
        "if (netmem_is_net_iov(netmem)) return 1; get_page(__netmem_to_page(netmem));",
        "if (NETMEM_WARN_ON_ONCE(netmem_is_net_iov(netmem))) return 1;"
        "get_page(netmem_to_page(netmem));",
        "bool iov = netmem_is_net_iov(netmem); if (iov) return 1;get_page(netmem_to_page(netmem));",
        "if (skb_frag_is_net_iov(frag)) return net_iov_idx(skb_frag_net_iov(frag));",
        "if (!skb_frag_net_iov(frag)) get_page(skb_frag_page(frag));",
        "return netmem_is_net_iov(netmem) ? 0 : page_to_nid(netmem_to_page(netmem));",
        "if (__builtin_expect(netmem_is_net_iov(netmem), 0)) return 1;"
        "get_page(netmem_to_page(netmem));",
        # no need to
        "return netmem_get_dma_addr(netmem) + *netmem_get_pp_ref_count_ref(netmem);",
        "(void)netmem_to_page(netmem);",
        "return netmem_to_page(netmem) == skb_frag_page(frag);",
        "netmem = NETMEM_NONE;",
    ],
)
def test_who_looks_is_right(body: str) -> None:
    assert findings(body) == []


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("get_page(netmem_to_page(netmem));", "may be NULL"),
        ("return netmem_to_page(netmem)->_refcount;", "may be NULL"),
        ("struct page *p = netmem_to_page(netmem); get_page(p);", "may be NULL"),
        ("struct page *p = netmem_to_page(netmem); return p->_refcount;", "may be NULL"),
        ("struct page *p = netmem_to_page(netmem); if (!p) return p->flags;", "may be NULL"),
        ("struct page *p = netmem_to_page(netmem); if (p) get_page(p); p->flags = 0;", "may be"),
        ("struct page *p = netmem_to_page(netmem); if (!p) pool = NULL; get_page(p);", "may be"),
        ("struct page *p = skb_frag_page(frag), *q = p; get_page(q);", "may be NULL"),
        (
            "struct page *p = netmem_to_page(netmem); if (!p) return 1;"
            "p = skb_frag_page(frag); get_page(p);",
            "skb_frag_page(frag.netmem) may be NULL",
        ),
        ("char *va = skb_frag_address(frag); *va = 0;", "may be NULL"),
        ("char *va = netmem_address(netmem); va[1] = 0;", "may be NULL"),
        # the wrong kind, of another netmem, or no longer
        ("if (netmem_is_net_iov(netmem)) get_page(netmem_to_page(netmem));", "may be NULL"),
        ("if (!skb_frag_is_net_iov(frag)) get_page(netmem_to_page(netmem));", "may be NULL"),
        (
            "if (netmem_is_net_iov(netmem)) return 1; netmem = frag->netmem;"
            "get_page(netmem_to_page(netmem));",
            "may be NULL",
        ),
        (
            "for (int i = 0; i < 2; i++) { if (netmem_is_net_iov(netmem)) continue;"
            "netmem = frag->netmem; get_page(netmem_to_page(netmem)); }",
            "may be NULL",
        ),
        # what does not check, where nobody has
        ("get_page(__netmem_to_page(netmem));", "not shown to be a page"),
        ("if (netmem_is_net_iov(netmem)) get_page(__netmem_to_page(netmem));", "not shown"),
        ("return net_iov_idx(__netmem_to_net_iov(netmem));", "not shown to be a net_iov"),
        # behind its back
        ("return netmem.bits & 1;", "looks at the bits"),
        ("return frag->netmem.bits != 0;", "looks at the bits"),
        ("netmem = (netmem_ref){4096};", "makes a netmem_ref of its bits"),
        ("get_page((struct page *)4096UL);", "casts unsigned long to struct page *"),
        ("return (unsigned long)skb_frag_page(frag);", "casts struct page * to unsigned long"),
        ("netmem = (__typeof__(netmem)){4096};", "makes a netmem_ref of its bits"),
        ("netmem_ref n = {.bits = 4096}; netmem = n;", "makes a netmem_ref of its bits"),
        ("skb_frag_t copy = {{4096}, 1, 2}; consume(&copy);", "makes a netmem_ref of its bits"),
        ("return *(const int *)frag;", "casts const struct skb_frag * to const int *"),
        ("return **(struct page ***)&netmem == NULL;", "casts netmem_ref * to struct page ***"),
        ("__builtin_memcpy(&pool, &netmem, 8);", "casts netmem_ref * to const void *"),
        ("union { netmem_ref n; int i; } u = {netmem}; return u.i;", "netmem_ref in a union"),
        (
            "return ((struct page *)netmem_to_nmdesc(netmem))->_refcount;",
            "casts struct netmem_desc * to struct page *",
        ),
        (
            "struct page *(*ask)(netmem_ref) = netmem_to_page; return ask(netmem)->_refcount;",
            "netmem_to_page() called through a pointer",
        ),
        (
            "struct page *(*ask[])(netmem_ref) = {__netmem_to_page}; get_page(ask[0](netmem));",
            "__netmem_to_page() called through a pointer",
        ),
        # kept where it is lost sight of
        ("struct { struct page *p; } s = {netmem_to_page(netmem)}; consume(s.p);", "may be NULL"),
        ("struct { struct page *p; } s = {.p = netmem_to_page(netmem)}; consume(s.p);", "may be"),
        ("static struct page *p; p = netmem_to_page(netmem);", "may be NULL"),
        ("struct page *p = netmem_to_page(netmem), **q = &p; get_page(*q);", "may be NULL"),
        ("get_page((pool++, netmem_to_page(netmem)));", "may be NULL"),
        (
            "struct page *p = NULL; for (int i = 0; i < 2; i++) {"
            "if (i) get_page(p); p = netmem_to_page(netmem); }",
            "may be NULL",
        ),
        (
            "struct page *p = NULL; for (;;) { p = netmem_to_page(netmem); break; } get_page(p);",
            "may be NULL",
        ),
        (
            "struct page *p = NULL; if (pool) { p = netmem_to_page(netmem); goto out; }"
            "return 1; out: get_page(p);",
            "may be NULL",
        ),
        # no longer what was looked at
        ("if (skb_frag_is_net_iov(frag)) return 1; frag++; get_page(skb_frag_page(frag));", "may"),
        (
            "if (skb_frag_is_net_iov(frag)) return 1; frag += 1; get_page(skb_frag_page(frag));",
            "ma",
        ),
        (
            "netmem_ref a[2], *n = a; *n = netmem; if (netmem_is_net_iov(*n)) return 1;"
            "*n = netmem; get_page(netmem_to_page(*n));",
            "may be NULL",
        ),
        (
            "netmem_ref a[2]; int i = 0; a[0] = a[1] = netmem;"
            "if (netmem_is_net_iov(a[i])) return 1; i++; get_page(netmem_to_page(a[i]));",
            "may be NULL",
        ),
        (
            "skb_frag_t own = *frag; if (skb_frag_is_net_iov(&own)) return 1;"
            "own.netmem = netmem; get_page(skb_frag_page(&own));",
            "may be NULL",
        ),
        (
            "void other(netmem_ref *n); if (netmem_is_net_iov(netmem)) return 1; other(&netmem);"
            "get_page(netmem_to_page(netmem));",
            "may be NULL",
        ),
        (
            "bool iov = netmem_is_net_iov(netmem); netmem = frag->netmem; if (iov) return 1;"
            "get_page(netmem_to_page(netmem));",
            "may be NULL",
        ),
        (
            "netmem_ref next(void); if (netmem_is_net_iov(next())) return 1;"
            "get_page(netmem_to_page(next()));",
            "may be NULL",
        ),
    ],
)
def test_who_does_not_is_found(body: str, what: str) -> None:
    found = findings(body)
    assert any(what in each for each in found), found


def test_who_hands_a_null_on_is_an_accessor_himself() -> None:
    text = f"""{HEAD}
struct page *mine(netmem_ref netmem);
struct page *mine(netmem_ref netmem) {{ return netmem_to_page(netmem); }}
void careless(netmem_ref netmem);
void careless(netmem_ref netmem) {{ get_page(mine(netmem)); }}
void careful(netmem_ref netmem);
void careful(netmem_ref netmem) {{ struct page *p = mine(netmem); if (p) get_page(p); }}
"""
    result = audit.audit({SOURCE: text}, only=[ROOT / SOURCE], forms=["PLAIN"])
    found = [each for each in result.findings if each.file == SOURCE]
    assert [each.function for each in found] == ["careless"]
    assert "mine(netmem) may be NULL" in found[0].what


def test_who_answers_with_null_by_his_own_look_at_the_kind_is_an_accessor_too() -> None:
    text = f"""{HEAD}
struct page *mine(netmem_ref netmem);
struct page *mine(netmem_ref netmem)
{{
	if (netmem_is_net_iov(netmem))
		return NULL;
	return __netmem_to_page(netmem);
}}
void careless(netmem_ref netmem);
void careless(netmem_ref netmem) {{ get_page(mine(netmem)); }}
"""
    result = audit.audit({SOURCE: text}, only=[ROOT / SOURCE], forms=["PLAIN"])
    found = [each for each in result.findings if each.file == SOURCE]
    assert [each.function for each in found] == ["careless"]


def test_a_table_of_accessors_is_found() -> None:
    text = f"{HEAD}struct page *(*const table[])(netmem_ref) = {{__netmem_to_page}};\n"
    result = audit.audit({SOURCE: text}, only=[ROOT / SOURCE], forms=["PLAIN"])
    assert any("called through a pointer" in each.what for each in result.findings)
