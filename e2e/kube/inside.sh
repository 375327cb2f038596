#!/usr/bin/env bash
# inside.sh: the first process of the cluster's own pid, mount and network namespaces. Starts every program, touches $KUBE_WORK/ready, and stays:
# when it is killed, the kernel ends everything with it. Started by cluster.sh.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
LOGS=$KUBE_WORK/logs
PKI=$KUBE_WORK/pki
export KUBECONFIG=$PKI/admin.kubeconfig
mkdir -p "$LOGS"

now() { date +%s.%N; }
BEGIN=$(now)
stamp() { echo "$(bc <<<"$(now) - $BEGIN") $*" >>"$KUBE_WORK/timing"; }

# A program that ends is started again a moment later, as an API server that a test has killed.
run() {
  local name=$1
  shift
  while :; do
    "$@" >>"$LOGS/$name.log" 2>&1 &
    echo $! >"$KUBE_WORK/$name.pid"
    wait $!
    echo "== $name ended with $?, starting it again" >>"$LOGS/$name.log"
    sleep 0.5
  done &
}

mount_what_is_ours() {
  mount --make-rshared /
  # sysfs of our network namespace, with the cgroups kept.
  mkdir -p "$KUBE_WORK/cgroups"
  mount --rbind /sys/fs/cgroup "$KUBE_WORK/cgroups"
  mount -t sysfs sysfs /sys
  mount --rbind "$KUBE_WORK/cgroups" /sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs tmpfs /var/log
  mkdir -p /run/lock
  # The kubelet writes to /var/lib/kubelet/device-plugins whatever its root directory is.
  for dir in /var/lib/cni /var/lib/kubelet; do
    mkdir -p $dir
    mount -t tmpfs tmpfs $dir
  done
}

# There are no `dummy` links here; an address on a bridge without ports serves as well.
network() {
  ip link set lo up
  ip link add node0 type bridge
  ip addr add "$NODE_IP/24" dev node0
  ip link set node0 up
  # Without a route the kernel refuses an address of the service range before NAT can replace it.
  ip route add "$SERVICE_NET" dev node0
  ip addr add "$INNER_IP/30" dev out0
  ip link set out0 up
  sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
}

control_plane() {
  # Nothing of it outlives the cluster, and a disk that others keep busy would hold up everything for seconds.
  run etcd "$NODE" etcd --unsafe-no-fsync --data-dir "$KUBE_WORK/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380 --log-level warn
  run apiserver "$NODE" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$NODE_IP" \
    --service-cluster-ip-range="$SERVICE_NET" --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$PKI/sa.pub" \
    --service-account-signing-key-file="$PKI/sa.key" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --allow-privileged=true --profiling=false --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP --requestheader-client-ca-file="$PKI/ca.crt" \
    --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra-
}

# The controllers' default of 20 requests a second delays everything, above all the start.
controllers() {
  run controllers "$NODE" kube-controller-manager --kubeconfig="$PKI/controllers.kubeconfig" --authentication-kubeconfig="$PKI/controllers.kubeconfig" \
    --authorization-kubeconfig="$PKI/controllers.kubeconfig" --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --use-service-account-credentials=true --leader-elect=false --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
    --bind-address=127.0.0.1 --profiling=false --kube-api-qps=500 --kube-api-burst=1000
  run scheduler "$NODE" kube-scheduler --kubeconfig="$PKI/scheduler.kubeconfig" --authentication-kubeconfig="$PKI/scheduler.kubeconfig" \
    --authorization-kubeconfig="$PKI/scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1
}

node_files() {
  for group in /sys/fs/cgroup/*/; do
    case $group in */unified/) ;; *) mkdir -p "$group$KUBE_NAME" ;; esac
  done
  for file in cpus mems; do
    [ ! -s "/sys/fs/cgroup/cpuset/$KUBE_NAME/cpuset.$file" ] ||
      cat /sys/fs/cgroup/cpuset/cpuset.$file >"/sys/fs/cgroup/cpuset/$KUBE_NAME/cpuset.$file"
  done
  mkdir -p "$KUBE_WORK/cni"
  cat >"$KUBE_WORK/cni/10-e2e.conflist" <<EOF
{"cniVersion":"0.4.0","name":"e2e","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
  "ipam":{"type":"host-local","ranges":[[{"subnet":"$POD_NET"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
EOF
  # containerd 1.6 cannot tell the kubelet its cgroup driver, and lowering an oom score is refused here.
  cat >"$KUBE_WORK/containerd.toml" <<EOF
version = 2
root = "$KUBE_WORK/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.zfs","io.containerd.snapshotter.v1.aufs","io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$KUBE_WORK/cni"
EOF
  : >"$KUBE_WORK/resolv.conf"
  # Nothing is evicted: the disk of the machine that runs the tests is not the tests' concern.
  cat >"$KUBE_WORK/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$KUBE_NAME
failSwapOn: false
failCgroupV1: false
localStorageCapacityIsolation: false
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
resolvConf: $KUBE_WORK/resolv.conf
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 4s
# A changed Secret is in the pods' volumes within this time.
syncFrequency: 5s
configMapAndSecretChangeDetectionStrategy: Watch
serializeImagePulls: false
registryPullQPS: 0
oomScoreAdj: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
enableDebuggingHandlers: true
shutdownGracePeriod: 0s
EOF
  # Connection tracking is left alone: its settings cannot be written here.
  cat >"$KUBE_WORK/proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
mode: iptables
clusterCIDR: $POD_NET
hostnameOverride: node1
bindAddress: 0.0.0.0
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 0s, syncPeriod: 30s, localhostNodePorts: true}
EOF
}

import_images() {
  until_true 100 ctr -a /run/containerd/containerd.sock version
  stamp containerd up
  for image in "$KUBE_IMAGES"/*.tar; do
    [ ! -e "$image" ] || ctr -a /run/containerd/containerd.sock -n k8s.io images import "$image" >>"$LOGS/import.log" 2>&1
  done
  stamp images imported
}

# until_true TENTHS COMMAND…: asks again and again; whoever waits for `ready` has the deadline that counts.
until_true() {
  local tries=$1
  shift
  for _ in $(seq "$tries"); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}

node_is_ready() { "$NODE" kubectl get node node1 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True; }

mount_what_is_ours
network
control_plane
if [ "$KUBE_LEVEL" = node ]; then
  node_files
  run containerd containerd --config "$KUBE_WORK/containerd.toml"
  import_images &
  imports=$!
fi
until_true 1200 "$NODE" kubectl get --raw /readyz
stamp API server ready
controllers
if [ "$KUBE_LEVEL" = node ]; then
  run dns "$NODE" cluster-dns --kubeconfig="$PKI/admin.kubeconfig" --listen="$NODE_IP:53"
  wait $imports
  run kubelet "$NODE" kubelet --kubeconfig="$PKI/node.kubeconfig" --config="$KUBE_WORK/kubelet.yaml" --root-dir=/var/lib/kubelet \
    --hostname-override=node1 --node-ip="$NODE_IP"
  run proxy "$NODE" kube-proxy --config="$KUBE_WORK/proxy.yaml"
  until_true 1200 node_is_ready
  stamp node ready
fi
until_true 1200 "$NODE" kubectl -n default get serviceaccount default
[ "$KUBE_LEVEL" != node ] || "$HERE/volumes.sh" | "$NODE" kubectl apply -f - >>"$LOGS/volumes.log" 2>&1
stamp service accounts there
touch "$KUBE_WORK/ready"
while :; do
  sleep 3600 &
  wait $!
done
