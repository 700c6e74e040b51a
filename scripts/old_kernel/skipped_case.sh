#!/bin/sh
# skipped_case.sh DIR REASON: DIR/test.xml with one skipped case, as gtest would write it.
mkdir -p "$1"
reason=$(printf '%s' "$2" | tr '\n' ' ' | sed 's/&/\&amp;/g; s/</\&lt;/g; s/"/\&quot;/g')
cat >"$1/test.xml" <<EOF
<testsuites><testsuite name="old_kernel"><testcase classname="old_kernel" name="$(basename "$1")">
<skipped message="$reason"/></testcase></testsuite></testsuites>
EOF
