#!/bin/sh
# cross.sh ARCH PACKAGE BINARY DIR: builds a release binary for amd64 or arm64 in a Debian 12 with Rust, on either of them, without emulation.
set -eu
arch=$1 package=$2 binary=$3 dir=$4
case $arch in
  amd64) target=x86_64-unknown-linux-gnu gcc=x86-64-linux-gnu ;;
  arm64) target=aarch64-unknown-linux-gnu gcc=aarch64-linux-gnu ;;
  *) echo "cross.sh: no such architecture: $arch" >&2; exit 1 ;;
esac
if [ "$(dpkg --print-architecture)" != "$arch" ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "gcc-$gcc" "libc6-dev-$arch-cross"
  compiler=$(echo "$gcc" | sed 's/x86-64/x86_64/')-gcc
  name=$(echo "$target" | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${name}_LINKER=$compiler" "CC_$(echo "$target" | tr - _)=$compiler"
fi
rustup target add "$target"
cargo build --locked --release --target "$target" -p "$package"
mkdir -p "$dir"
cp "target/$target/release/$binary" "$dir/$binary"
