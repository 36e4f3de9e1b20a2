#!/usr/bin/env bash
# Makes the folder `kubernetes` of the test tools: Kubernetes' control plane and its snapshot controller, Helm, definitions of
# custom resources, and the base of an image.
#
#   scripts/kubernetes.sh TOOLS
#
# The programs are compiled once with Go, from their modules: about 25 processor minutes on an empty cache, which then has
# 4 GB. If KUBEBUILDER_ASSETS or PATH has etcd, kube-apiserver and kube-controller-manager that are new enough, those are
# used. Each part leaves a stamp with the hash of what it is made from. Run it again if it was interrupted: Go keeps what it has.
#
# On failure the last line of standard error, and the file `lack` of the folder, say what is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$1
folder=$tools/kubernetes

say() { printf 'kubernetes: %s\n' "$*" >&2; }
fail() { say "$*"; printf '%s\n' "$*" >"$folder/lack"; exit 1; }

# Compiles a package of one of our modules: the module, the program, the package, and flags of the linker. Two compilers at a
# time: the largest packages take 2 GB each.
compile() {
    go -C "$root/tests/$1" build -p 2 -mod readonly -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$folder/$2" "$3" ||
        fail "cannot compile $2"
}

# The folder that has all programs of a control plane, in a version that is new enough.
find_control_plane() {
    local found name version
    # The oldest Kubernetes 1.x whose API has all that is used.
    local minor_min=33
    for found in "${KUBEBUILDER_ASSETS:-}" "$(dirname "$(command -v kube-apiserver || echo /none/)")"; do
        for name in "$@"; do [ -x "$found/$name" ] || continue 2; done
        version=$("$found/kube-apiserver" --version | sed -n 's/^Kubernetes v1\.\([0-9]*\)\..*/\1/p')
        [ "${version:-0}" -ge "$minor_min" ] && echo "$found" && return
    done
    return 1
}

make_control_plane() {
    local found name version
    local programs=(etcd kube-apiserver kube-controller-manager)
    if found=$(find_control_plane "${programs[@]}"); then
        for name in "${programs[@]}"; do ln -sf "$found/$name" "$folder/$name"; done
        return
    fi
    version=$(sed -n 's/^\tk8s\.io\/kubernetes //p' "$root/tests/control_plane/go.mod")
    say "compiling Kubernetes $version into $folder (about 14 processor minutes)"
    compile control_plane control-plane . "-X k8s.io/component-base/version.gitVersion=$version"
    for name in "${programs[@]}"; do ln -sf control-plane "$folder/$name"; done
}

make_snapshot_controller() {
    say "compiling the snapshot controller (about 5 processor minutes)"
    compile snapshot_controller snapshot-controller github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller
}

make_helm() {
    say "compiling Helm (about 4 processor minutes)"
    (cd / && GOBIN=$folder go install -p 2 -trimpath -ldflags '-s -w' helm.sh/helm/v4/cmd/helm@v4.3.1) ||
        fail "cannot compile Helm"
}

# Copies the definitions of custom resources from a module: the module, the folder in it, the files.
copy_definitions() {
    local found
    found=$(cd / && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -n "$found" ] || fail "cannot download $1"
    (cd "$found/$2" && install -m 644 -D -t "$folder/custom-resources" "${@:3}") || fail "$1 lacks ${*:3}"
}

make_custom_resources() {
    copy_definitions github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd \
        monitoring.coreos.com_{podmonitors,prometheusrules,servicemonitors}.yaml
    copy_definitions github.com/kubernetes-csi/external-snapshotter/client/v8@v8.6.0 config/crd \
        snapshot.storage.k8s.io_{volumesnapshotclasses,volumesnapshotcontents,volumesnapshots}.yaml
}

# The base of the image that the tests build: the Debian that deploy/Dockerfile names, too. Only root can make it.
make_base_image() {
    local made debian=trixie
    [ "$(id -u)" = 0 ] || return 0
    say "making a base image with Debian $debian"
    made=$(mktemp -d)
    debootstrap --variant=minbase "$debian" "$made" >"$folder/debootstrap.log" || fail "cannot make Debian $debian"
    tar -C "$made" -cf "$folder/debian.tar" .
    rm -rf "$made"
}

mkdir -p "$folder"
for part in control_plane snapshot_controller helm custom_resources base_image; do
    wanted=$({ declare -f "make_$part"; cat "$root/tests/$part"/{go.mod,go.sum,main.go} 2>/dev/null || true; } | sha256sum)
    [ "$(cat "$folder/$part.stamp" 2>/dev/null)" = "$wanted" ] && continue
    command -v go >/dev/null || fail "there is no Go to compile Kubernetes' control plane and Helm with"
    "make_$part"
    echo "$wanted" >"$folder/$part.stamp"
done
bwrap --unshare-user --unshare-pid --uid 65532 --gid 65532 --ro-bind / / --proc /proc --dev /dev true ||
    fail "bubblewrap cannot make namespaces on this machine"
rm -f "$folder/lack"
