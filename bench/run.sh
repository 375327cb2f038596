#!/usr/bin/env bash
# Builds the gateway and the bench, measures, prints the table and keeps it in target/bench.md. Installs the servers they are compared
# with if it may, but never in a smoke run, which is part of `make test`. Arguments go to `frontier-bench run`: `--row call-10x8`, `--runs 5`, `--quick`, `--list`, …
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi

quick=
case " $* " in *" --quick "*) quick=yes ;; esac

# What the figures are compared with, and what counts system calls; without a tracer that part of the table is missing.
need=()
command -v nats-server >/dev/null || [ -x /usr/sbin/nats-server ] || need+=(nats-server)
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || need+=(mosquitto)
if [ -n "$quick" ]; then
  if [ "${#need[@]}" -gt 0 ]; then
    echo "!!! Not on this machine, so left out of the smoke run: ${need[*]}" >&2
    [ -z "${CI:-}" ] || { echo "CI must have them." >&2; exit 1; }
  fi
else
  command -v perf >/dev/null || command -v strace >/dev/null || need+=(strace)
  if [ "${#need[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      echo "Install these first, for the comparison: ${need[*]}" >&2
      exit 1
    fi
    ./.ci/install "${need[@]}"
  fi
fi

# A smoke run measures nothing, so it takes what the tests have built already.
profile=release what=(-p frontier-gateway -p frontier-bench)
[ -z "$quick" ] || profile=dev what=(--workspace --features frontier-gateway/testing,frontier-sdk/testing)
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
