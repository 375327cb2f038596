#!/usr/bin/env bash
# Builds the gateway and the bench, installs the servers they are compared with, measures, prints the table and keeps it in
# target/bench.md. Arguments go to `frontier-bench run`: `--row call-10x8`, `--runs 5`, `--quick`, `--list`, …
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi

# Debian starts services on installation unless told not to; these are started by the harness, on ports of its own.
need=()
[ -x /usr/sbin/nats-server ] || command -v nats-server >/dev/null || need+=(nats-server)
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || need+=(mosquitto)
command -v cmake >/dev/null || need+=(cmake)
command -v cc >/dev/null || need+=(gcc libc6-dev)
if [ "${#need[@]}" -gt 0 ]; then
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
fi
# Tracers only count system calls; without one that part of the table is missing.
if ! command -v perf >/dev/null && ! command -v strace >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace || true
fi

# A smoke run measures nothing, so it takes what the tests have built already.
profile=release what=(-p frontier-gateway -p frontier-bench)
case " $* " in *" --quick "*) profile=dev what=(--workspace --features frontier-gateway/testing,frontier-sdk/testing) ;; esac
echo "Building the gateway and the bench (profile $profile) …" >&2
cargo build --locked --profile "$profile" "${what[@]}" >&2
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
# Go clients, if there is Go and its modules can be had; without them their column is missing.
if command -v go >/dev/null && [ -f e2e/go/geminio/bench.go ]; then
  (cd e2e/go/geminio && go build -o "$target/${profile/#dev/debug}/geminio-peer" .) >&2 || echo "No Go clients: their program could not be built" >&2
else
  echo "No Go clients: there is no Go here, or no program for it" >&2
fi
exec "$target/${profile/#dev/debug}/frontier-bench" run --out "$target/bench.md" "$@"
