#!/bin/sh
# install.sh [DIR]: installs frontier and frontlas from DIR (default: target/release of this repository) as services of systemd. With DESTDIR it only copies files.
# Configuration that is there is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
built=${1:-$here/../../target/release}
root=${DESTDIR:-}
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
  echo "install.sh: run it as root, or with DESTDIR" >&2
  exit 1
fi
if [ -z "$root" ] && ! id frontier >/dev/null 2>&1; then
  useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin frontier
fi
install -d "$root/usr/bin" "$root/usr/conf" "$root/etc/systemd/system"
for name in frontier frontlas; do
  install -m 755 "$built/$name" "$root/usr/bin/$name"
  [ -e "$root/usr/conf/$name.yaml" ] || install -m 644 "$here/$name.yaml" "$root/usr/conf/$name.yaml"
  install -m 644 "$here/$name.service" "$root/etc/systemd/system/$name.service"
done
[ -n "$root" ] || systemctl daemon-reload
echo "installed; start them: systemctl enable --now frontlas frontier"
