#!/usr/bin/env bash
# certs.sh: keys and certificates of the cluster's programs and a kubeconfig for each, in $KUBE_WORK/pki.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
mkdir -p "$KUBE_WORK/pki"
cd "$KUBE_WORK/pki"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# leaf NAME SUBJECT EXTENSIONS
leaf() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n%b\n' "$3" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -sha256 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

key ca
openssl req -x509 -new -key ca.key -sha256 -days 30 -subj /CN=e2e-ca -out ca.crt \
  -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,digitalSignature 2>/dev/null
names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
leaf apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth\nsubjectAltName=$names,IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP"
leaf kubelet-server /CN=node1 "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:node1,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP"
leaf kubelet-client /O=system:masters/CN=apiserver-kubelet-client extendedKeyUsage=clientAuth
leaf admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
leaf node /O=system:nodes/CN=system:node:node1 extendedKeyUsage=clientAuth
leaf controllers /CN=system:kube-controller-manager extendedKeyUsage=clientAuth
leaf scheduler /CN=system:kube-scheduler extendedKeyUsage=clientAuth
leaf proxy /CN=system:kube-proxy extendedKeyUsage=clientAuth
key sa # signs tokens of service accounts
openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null

for user in admin node controllers scheduler proxy; do
  cat >"$user.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $user, user: {client-certificate-data: $(base64 -w0 "$user.crt"), client-key-data: $(base64 -w0 "$user.key")}}]
contexts: [{name: e2e, context: {cluster: e2e, user: $user}}]
current-context: e2e
EOF
done
