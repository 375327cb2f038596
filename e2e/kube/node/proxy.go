package main

import (
	"k8s.io/kubernetes/cmd/kube-proxy/app"
)

func init() {
	commands["kube-proxy"] = app.NewProxyCommand
}
