#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compile_fail.sh FORM SOURCE CHECKOUT COMPILER...: each SNIPPET_ of SOURCE must be refused in
# this form of the check, for an error in SOURCE itself, and SOURCE without any of them must
# compile. A snippet that names a form (SNIPPET_OFF_...) is fine in the others.
set -eu
form=$1 source=$2 root=$3
shift 3

compile() {
	LC_ALL=C "$@" -std=gnu11 -Werror=implicit-function-declaration -fsyntax-only \
		-DNETMEM_CHECK="NETMEM_CHECK_$form" -I"$root/stack" -I"$root/jump_label" "$source" 2>&1
}

if ! output=$(compile "$@"); then
	printf 'the control does not compile:\n%s\n' "$output"
	exit 1
fi

failed=0
snippets=$(grep -o 'SNIPPET_[A-Z][A-Z_]*[A-Z]' "$source")
for snippet in $snippets; do
	case $snippet in
	SNIPPET_OFF_*) [ "$form" = OFF ] && wanted=refused || wanted=fine ;;
	*) wanted=refused ;;
	esac
	if output=$(compile "$@" -D"$snippet"); then
		got=fine
	elif printf '%s\n' "$output" | grep -q "${source##*/}:[0-9]*:[0-9]*: error:"; then
		got=refused
	else
		printf 'FAIL %s: refused for something else:\n%s\n' "$snippet" "$output"
		failed=1
		continue
	fi
	if [ "$got" = "$wanted" ]; then
		echo "ok   $snippet is $got"
	else
		echo "FAIL $snippet is $got, not $wanted"
		failed=1
	fi
done
exit "$failed"
