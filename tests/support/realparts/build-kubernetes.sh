#!/usr/bin/env bash
# build-kubernetes.sh DIR
#
# A Kubernetes control plane in DIR/bin: etcd, kube-apiserver, kube-controller-manager and kubectl. No package has the servers:
# they are built from Debian's own source package, which has all of its vendored code, by Debian's Go. Takes 4 to 10 minutes with
# two compilers at once (JOBS), 4 GB of disk meanwhile, and keeps 260 MB. Prints the name and version.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/mirror.sh"

version=1.20.2 suite=bookworm
dir=$(mkdir -p "$1" && cd "$1" && pwd)
mirror=$(debian_mirror)

# Go's build cache keeps read-only files: they must be made writable to be removed.
work=$dir/.work
trap '[[ ! -e $work ]] || { chmod -R u+w "$work" && rm -rf "$work"; }' EXIT
state=$work/apt root=$work/root
mkdir -p "$state"/{lists,cache/archives,get}/partial "$root"
: >"$state/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=
[[ ! -e $keyring ]] || options="[signed-by=$keyring]"
printf "%s $options $mirror $suite main\n" deb deb-src >"$state/sources.list"
apt=(apt-get -qq
  -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
  -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status"
  -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none
  -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
"${apt[@]}" update >&2
cd "$state/get"
"${apt[@]}" source --download-only kubernetes >&2
"${apt[@]}" download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server kubernetes-client >&2
for package in *.deb; do dpkg-deb --extract "$package" "$root"; done
source=$work/gopath/src/k8s.io/kubernetes
mkdir -p "$source"
tar -xzf kubernetes_*.orig.tar.gz -C "$source" --strip-components 1

# The vendored reflect2 walks the runtime's table of types in a way that Go 1.18 and later do not allow: a server with it crashes.
rm -r "$source/vendor/github.com/modern-go/reflect2"
cp -r "$root/usr/share/gocode/src/github.com/modern-go/reflect2" "$source/vendor/github.com/modern-go/"
export GOROOT=$root/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/cache GOTMPDIR=$work
export GO111MODULE=off GOFLAGS= GOTOOLCHAIN=local CGO_ENABLED=0 PATH="$root/usr/lib/go-1.19/bin:$PATH"
cd "$source"

# The one generated file that the source package lacks: the API's OpenAPI definitions.
nice go build -p "${JOBS:-2}" -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen >&2
packages=$(grep -rl --include='*.go' '^// +k8s:openapi-gen=' vendor/k8s.io/*/ pkg plugin cmd 2>/dev/null |
  grep -vE '^vendor/k8s.io/(code-generator|sample-|kube-openapi)|_test\.go$' | xargs -n1 dirname | LC_ALL=C sort -u |
  sed 's|^|k8s.io/kubernetes/|' | paste -sd,)
nice "$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations" >&2
is=
for package in component-base/version client-go/pkg/version; do # the second is what /version answers
  package=k8s.io/kubernetes/vendor/k8s.io/$package
  is+=" -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=20"
done
mkdir -p "$dir/bin"
nice go build -p "${JOBS:-2}" -trimpath -ldflags "-s -w$is" -o "$dir/bin/" ./cmd/kube-apiserver ./cmd/kube-controller-manager >&2
cp "$root/usr/bin/etcd" "$root/usr/bin/kubectl" "$dir/bin/"
echo "kubernetes $version"
