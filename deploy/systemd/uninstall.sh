#!/bin/sh
# uninstall.sh: what install.sh did, undone. Configuration and the user stay; --purge removes these, too.
set -eu
root=${DESTDIR:-}
for name in frontier frontlas; do
  [ -n "$root" ] || systemctl disable --now "$name" 2>/dev/null || true
  rm -f "$root/usr/bin/$name" "$root/etc/systemd/system/$name.service"
  [ "${1:-}" != --purge ] || rm -f "$root/usr/conf/$name.yaml"
done
if [ -z "$root" ]; then
  systemctl daemon-reload
  [ "${1:-}" != --purge ] || userdel frontier 2>/dev/null || true
fi
