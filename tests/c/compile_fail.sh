#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compile_fail.sh SOURCE INCLUDE-DIR COMPILER...: each SNIPPET_ of SOURCE must be refused,
# for an error in SOURCE itself, and SOURCE without any of them must compile.
set -eu
source=$1 include=$2
shift 2

compile() {
	LC_ALL=C "$@" -std=gnu11 -fsyntax-only -I"$include" "$source" 2>&1
}

if ! output=$(compile "$@"); then
	printf 'the control does not compile:\n%s\n' "$output"
	exit 1
fi

failed=0
snippets=$(grep -o 'SNIPPET_[A-Z][A-Z_]*' "$source")
for snippet in $snippets; do
	if output=$(compile "$@" -D"$snippet"); then
		echo "FAIL $snippet compiles"
		failed=1
	elif ! printf '%s\n' "$output" | grep -q "${source##*/}:[0-9]*:[0-9]*: error:"; then
		printf 'FAIL %s: refused for something else:\n%s\n' "$snippet" "$output"
		failed=1
	else
		echo "ok   $snippet is refused"
	fi
done
exit "$failed"
