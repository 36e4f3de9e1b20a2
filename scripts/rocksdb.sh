#!/usr/bin/env bash
# Compiles RocksDB once for all checkouts on this machine, and tells Cargo to link it.
#
# Why: the crate librocksdb-sys compiles RocksDB file by file. That takes 50 processor minutes, most of them spent parsing
# the same headers 340 times. This script compiles the same sources, those of the crate version in Cargo.lock, as a few
# large files, in 8 processor minutes. The result is what the crate would have built: same sources, same flags.
#
# What must stay true: everything still builds without this script, only more slowly; a new version of the crate, another
# compiler or other flags give a new library; an interrupted run leaves nothing that looks finished.
#
#   MLVAULT_ROCKSDB  where the library is kept   (default ~/.cache/mlvault-rocksdb)
#
# Writes .cargo/config.toml (not tracked), so that every cargo command in this checkout links it, with or without make.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${MLVAULT_ROCKSDB:-$HOME/.cache/mlvault-rocksdb}
# Source files that are compiled as one. With more, a compiler needs more than 2 GB of memory.
files_together=58
# The definitions are those of the crate's build script for Linux.
flags=(-O3 -w -std=c++20 -include cstdint -fPIC -ffunction-sections -fdata-sections
    -DNDEBUG -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX
    -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
    -Irocksdb/include -Irocksdb -I.)

say() { printf 'setup: %s\n' "$*"; }

# The version of the crate in Cargo.lock.
version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/"/, "", $3); print $3 }' "$root/Cargo.lock")

# Where Cargo unpacked the crate.
crate_sources() {
    local found
    for found in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/librocksdb-sys-"$version"; do
        [ -e "$found/rocksdb_lib_sources.txt" ] && printf '%s' "$found" && return
    done
    return 1
}

# Compiles the crate's sources into librocksdb.a in the current directory.
compile() {
    local sources=$1 work=$PWD jobs
    jobs=$(nproc)
    { grep -v 'util/build_version.cc' "$sources/rocksdb_lib_sources.txt" | sed 's|^|rocksdb/|'; echo build_version.cc; } |
        awk -v per="$files_together" '{ print "#include \"" $0 "\"" > sprintf("part%02d.cc", int((NR - 1) / per)) }'
    (cd "$sources" && printf '%s\0' "$work"/part*.cc |
        xargs -0 -P "$jobs" -I{} "${CXX:-c++}" "${flags[@]}" -c {} -o {}.o)
    ar crs librocksdb.a part*.cc.o
    rm -f part*
}

[ "$(uname -s)" = Linux ] || exit 0
(cd "$root" && cargo fetch --locked --quiet)
sources=$(crate_sources) || {
    say "cannot find the sources of librocksdb-sys $version; Cargo will compile RocksDB, in about 50 processor minutes"
    exit 0
}
recipe=$(printf '%s\n' "$("${CXX:-c++}" --version)" "$files_together" "${flags[@]}" | sha256sum | cut -c1-12)
library=$home/$version-$recipe
mkdir -p "$home"
exec {lock}>"$home/lock"
flock "$lock"
if [ ! -e "$library/librocksdb.a" ]; then
    say "compiling RocksDB $version once for this machine (about 4 minutes on two cores)"
    scratch=$(mktemp -d "$home/compiling.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    (cd "$scratch" && compile "$sources")
    # All or nothing: a run that is stopped before this leaves only a scratch directory.
    mv "$scratch" "$library"
fi
config="[env]
ROCKSDB_LIB_DIR = \"$library\"
ROCKSDB_STATIC = \"1\""
mkdir -p "$root/.cargo"
[ "$(cat "$root/.cargo/config.toml" 2>/dev/null)" = "$config" ] || printf '%s\n' "$config" >"$root/.cargo/config.toml"
