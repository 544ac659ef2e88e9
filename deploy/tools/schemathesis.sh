#!/bin/sh
# Runs the pinned schemathesis, which it fetches first:
#
#   deploy/tools/schemathesis.sh run http://127.0.0.1:8080/openapi.json
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools_dir=${ONSALE_TOOLS_DIR:-$(cd "$here/../.." && pwd)/.tools}

"$here/fetch.sh" schemathesis
version=$(sed -n 's/^schemathesis==\([^ ]*\).*/\1/p' "$here/schemathesis.txt")
home=$tools_dir/schemathesis-$version
PYTHONPATH=$home PYTHONDONTWRITEBYTECODE=1 exec python3 "$home/bin/schemathesis" "$@"
