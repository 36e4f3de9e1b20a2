#!/usr/bin/env bash
# Makes the folder `kubernetes` of the test tools: Kubernetes' control plane, Helm, definitions of custom
# resources, and the base of an image.
#
#   scripts/kubernetes.sh TOOLS
#
# The control plane is compiled once from tests/control_plane with Go: about 14 processor minutes on an empty cache, which
# then has 3 GB. If KUBEBUILDER_ASSETS or PATH has etcd, kube-apiserver and kube-controller-manager that are new enough, those
# are used. A stamp with the hash of everything that it is made from says that nothing is to be done. Run it again if it was
# interrupted: Go keeps what it has.
#
# On failure the last line of standard error, and the file `lack` of the folder, say what is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
module=$root/tests/control_plane
tools=$1
folder=$tools/kubernetes
programs=(etcd kube-apiserver kube-controller-manager)
helm=helm.sh/helm/v4/cmd/helm@v4.3.1
prometheus_operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
external_snapshotter=github.com/kubernetes-csi/external-snapshotter/client/v8@v8.7.0
# The newest Debian, which deploy/Dockerfile names, too.
debian=trixie
# The oldest Kubernetes 1.x whose API has all that is used.
minor_min=33

say() { printf 'kubernetes: %s\n' "$*" >&2; }
fail() { say "$*"; printf '%s\n' "$*" >"$folder/lack"; exit 1; }

# The folder that has all programs of a control plane, in a version that is new enough.
find_control_plane() {
    local found name version
    for found in "${KUBEBUILDER_ASSETS:-}" "$(dirname "$(command -v kube-apiserver || echo /none/)")"; do
        for name in "${programs[@]}"; do [ -x "$found/$name" ] || continue 2; done
        version=$("$found/kube-apiserver" --version | sed -n 's/^Kubernetes v1\.\([0-9]*\)\..*/\1/p')
        [ "${version:-0}" -ge "$minor_min" ] && echo "$found" && return
    done
    return 1
}

make_control_plane() {
    local found name version
    if found=$(find_control_plane); then
        for name in "${programs[@]}"; do ln -sf "$found/$name" "$folder/$name"; done
        return
    fi
    version=$(sed -n 's/^\tk8s\.io\/kubernetes //p' "$module/go.mod")
    say "compiling Kubernetes $version into $folder (about 14 processor minutes)"
    # Two compilers at a time: the largest packages take 2 GB each.
    go -C "$module" build -p 2 -mod readonly -trimpath -buildvcs=false -o "$folder/control-plane" \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" . ||
        fail "cannot compile Kubernetes' control plane"
    for name in "${programs[@]}"; do ln -sf control-plane "$folder/$name"; done
}

make_helm() {
    say "compiling Helm (about 4 processor minutes)"
    (cd / && GOBIN=$folder go install -p 2 -trimpath -ldflags '-s -w' "$helm") || fail "cannot compile Helm"
}

# Copies the definitions of custom resources from a module: the module, the folder in it, the files.
copy_definitions() {
    local found
    found=$(cd / && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -n "$found" ] || fail "cannot download $1"
    (cd "$found/$2" && install -m 644 -D -t "$folder/custom-resources" "${@:3}") || fail "$1 lacks ${*:3}"
}

# The base of the image that the tests build; only root can make it.
make_base_image() {
    local made
    [ "$(id -u)" = 0 ] || return 0
    say "making a base image with Debian $debian"
    made=$(mktemp -d)
    debootstrap --variant=minbase "$debian" "$made" >"$folder/debootstrap.log" || fail "cannot make Debian $debian"
    tar -C "$made" -cf "$folder/debian.tar" .
    rm -rf "$made"
}

mkdir -p "$folder"
wanted=$(cat "$module"/{go.mod,go.sum,main.go} "${BASH_SOURCE[0]}" | sha256sum)
if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$wanted" ]; then
    command -v go >/dev/null || fail "there is no Go to compile Kubernetes' control plane and Helm with"
    make_control_plane
    make_helm
    copy_definitions "$prometheus_operator" example/prometheus-operator-crd \
        monitoring.coreos.com_{podmonitors,prometheusrules,servicemonitors}.yaml
    copy_definitions "$external_snapshotter" config/crd \
        snapshot.storage.k8s.io_{volumesnapshotclasses,volumesnapshotcontents,volumesnapshots}.yaml
    make_base_image
    echo "$wanted" >"$folder/stamp"
fi
bwrap --unshare-user --unshare-pid --uid 65532 --gid 65532 --ro-bind / / --proc /proc --dev /dev true ||
    fail "bubblewrap cannot make namespaces on this machine"
rm -f "$folder/lack"
