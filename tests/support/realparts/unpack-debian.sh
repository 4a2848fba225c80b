#!/usr/bin/env bash
# unpack-debian.sh [--with-dependencies] DIR SUITE PACKAGE...
#
# Unpacks Debian packages of SUITE (`release`: the one this machine runs) into DIR, beside the system and without root: apt
# works in a state of its own, knows no installed package, and only downloads. Prints name and version of each package.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/mirror.sh"

dependencies=
[[ $1 != --with-dependencies ]] || { dependencies=yes && shift; }
dir=$(mkdir -p "$1" && cd "$1" && pwd)
suite=$2
shift 2
[[ $suite != release ]] || suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
mirror=$(debian_mirror)

state=$dir/.apt
trap 'rm -rf "$state"' EXIT
mkdir -p "$state"/{lists,cache/archives,debs}/partial
: >"$state/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=
[[ ! -e $keyring ]] || options="[signed-by=$keyring]"
echo "deb $options $mirror $suite main" >"$state/sources.list"
apt=(apt-get -qq
  -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
  -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status"
  -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none
  -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)

# apt-get update warns and succeeds where a mirror does not answer: the download below is the judge.
"${apt[@]}" update
if [[ $dependencies ]]; then
  "${apt[@]}" -o Debug::NoLocking=1 install --download-only --no-install-recommends --yes "$@"
  cd "$state/cache/archives"
else
  cd "$state/debs"
  "${apt[@]}" download "$@"
fi
for package in *.deb; do
  dpkg-deb --extract "$package" "$dir"
  dpkg-deb --show --showformat '${Package} ${Version}\n' "$package"
done
