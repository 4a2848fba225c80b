# Sourced. `debian_mirror`: the Debian archive that this machine's own apt configuration names; fails where there is none.
debian_mirror() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "no apt-get here: this part is taken from Debian packages" >&2
    return 1
  }
  # The first package source of the archive itself, not of its security or update suites.
  local mirror
  mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 !~ /-/ && $2 ~ /\/debian\/?$/ && !seen++ {print $2}')
  [[ -n $mirror ]] || {
    echo "no Debian mirror among this machine's package sources" >&2
    return 1
  }
  echo "$mirror"
}
