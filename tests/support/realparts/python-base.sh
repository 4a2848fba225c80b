#!/usr/bin/env bash
# python-base.sh TOOLS ARCHIVE
#
# Makes ARCHIVE, the root of a small Debian with Python where an official Python image has it: enough for the steps of
# our Dockerfile to run in. Needs root; TOOLS is where debootstrap was unpacked.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/mirror.sh"

tools=$1
archive=$2
[[ $(id -u) == 0 ]] || {
  echo "only root can lay out a root file system" >&2
  exit 1
}
root=$(mktemp --directory "${archive%/*}/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
DEBOOTSTRAP_DIR=$tools/usr/share/debootstrap "$tools/usr/sbin/debootstrap" --variant=minbase \
  --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$root" "$(debian_mirror)" >&2
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
ln -s /usr/bin/pip3 "$root/usr/local/bin/pip"
tar --directory="$root" --exclude='./dev/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
  --create --file="$archive" .
