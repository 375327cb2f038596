# Settings of the test cluster, for the scripts beside this one; each may be given from outside.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
KUBE_OUT=${KUBE_OUT:-$REPO/target/kube}                # built programs and images
KUBE_NAME=${KUBE_NAME:-frontier-e2e}                   # network namespace and cgroup; one for each cluster at a time
KUBE_NET=${KUBE_NET:-250}                              # the cluster is in 10.$KUBE_NET.0.0/16; another number for a second cluster
KUBE_WORK=${KUBE_WORK:-${TMPDIR:-/tmp}/$KUBE_NAME}     # keys, state of etcd and containerd, logs; gone after `down`
KUBE_IMAGES=${KUBE_IMAGES:-$KUBE_OUT/images}           # every *.tar here is imported at the start
KUBE_LEVEL=${KUBE_LEVEL:-node}                         # `control`: API server and controllers only, no node
KUBE_WAIT=${KUBE_WAIT:-120}                            # seconds until a cluster that is not ready is given up

NODE=$KUBE_OUT/node                                    # all of Kubernetes in one program, see node/
NODE_IP=10.$KUBE_NET.0.1                               # API server, DNS and node ports
OUTER_IP=10.$KUBE_NET.1.1                              # this side of the link into the namespace
INNER_IP=10.$KUBE_NET.1.2                              # the cluster's side of it
POD_NET=10.244.0.0/24                                  # not reachable from outside, so the same in every cluster
SERVICE_NET=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
LINK=fk$KUBE_NET                                       # at most 15 bytes
