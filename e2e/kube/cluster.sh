# cluster.sh: functions that start, wait for and end the test cluster. Sourced by up, down and test.
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

seconds_since() { bc <<<"scale=1; ($(date +%s%N) - $1) / 1000000000"; }

cluster_runs() { [ -e "$KUBE_WORK/ready" ] && [ -e "$KUBE_WORK/pid" ] && kill -0 "$(cat "$KUBE_WORK/pid")" 2>/dev/null; }

# cluster_start [PREFIX…]: starts it by this prefix, as `setpriv --pdeathsig KILL`, and waits until it can be used.
cluster_start() {
  local begin
  begin=$(date +%s%N)
  for program in containerd runc iptables conntrack ip nsenter; do
    command -v "$program" >/dev/null || { echo "$program is missing: .ci/install containerd runc containernetworking-plugins iptables conntrack ipset iproute2 busybox-static" >&2; return 1; }
  done
  [ -x "$NODE" ] || { echo "$NODE is missing: run e2e/kube/build" >&2; return 1; }
  cluster_end >/dev/null 2>&1 # what a run that was killed has left
  mkdir -p "$KUBE_WORK"
  ip netns add "$KUBE_NAME"
  ip link add "$LINK" type veth peer name out0 netns "$KUBE_NAME"
  ip addr add "$OUTER_IP/30" dev "$LINK"
  ip link set "$LINK" up
  ip route add "10.$KUBE_NET.0.0/24" via "$INNER_IP" 2>/dev/null || true
  "$HERE/certs.sh" || return 1
  # `ip netns exec` would hide the cgroups.
  "$@" nsenter --net="/run/netns/$KUBE_NAME" unshare --mount --pid --fork --mount-proc --kill-child \
    bash "$HERE/inside.sh" >"$KUBE_WORK/inside.log" 2>&1 </dev/null &
  echo $! >"$KUBE_WORK/pid"
  disown
  for _ in $(seq $((KUBE_WAIT * 10))); do
    [ ! -e "$KUBE_WORK/ready" ] || break
    kill -0 "$(cat "$KUBE_WORK/pid")" 2>/dev/null || break
    sleep 0.1
  done
  # The link is up on both sides only now.
  ip route replace "10.$KUBE_NET.0.0/24" via "$INNER_IP" || true
  if ! cluster_runs; then
    echo "no cluster in $KUBE_WAIT s; the ends of its logs:" >&2
    tail -n 15 "$KUBE_WORK"/timing "$KUBE_WORK"/inside.log "$KUBE_WORK"/logs/*.log >&2
    return 1
  fi
  echo "cluster up in $(seconds_since "$begin") s" >&2
}

# Kills one process, the unshare; the kernel takes everything in its pid namespace along.
cluster_end() {
  local begin pid
  begin=$(date +%s%N)
  if [ -e "$KUBE_WORK/pid" ]; then
    pid=$(cat "$KUBE_WORK/pid")
    kill -9 "$pid" 2>/dev/null
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
  fi
  ip link del "$LINK" 2>/dev/null
  ip netns del "$KUBE_NAME" 2>/dev/null
  for _ in $(seq 50); do
    cgroups_left || break
    find /sys/fs/cgroup/*/"$KUBE_NAME" -depth -type d -exec rmdir {} + 2>/dev/null
    sleep 0.1
  done
  [ "${KEEP:-}" ] || rm -rf "$KUBE_WORK"
  echo "cluster down in $(seconds_since "$begin") s; left: $(ip netns list | grep -c "^$KUBE_NAME\b") namespaces," \
    "$(grep -c " $KUBE_WORK/" /proc/mounts) mounts, $(ls -d /sys/fs/cgroup/*/"$KUBE_NAME" 2>/dev/null | wc -l) cgroups" >&2
}

cgroups_left() { ls -d /sys/fs/cgroup/*/"$KUBE_NAME" >/dev/null 2>&1; }
