#!/usr/bin/env bash
# volumes.sh: a manifest of volumes on the node, and a class that hands them out, since nobody makes volumes here.
set -euo pipefail
cat <<EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: node
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
EOF
for number in $(seq 8); do
  # The kubelet's folder is in memory and goes with the cluster.
  mkdir -p "/var/lib/kubelet/volumes-e2e/$number"
  cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: node-$number}
spec:
  storageClassName: node
  capacity: {storage: 16Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {path: /var/lib/kubelet/volumes-e2e/$number}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
EOF
done
