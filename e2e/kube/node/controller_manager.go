package main

import (
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func init() {
	commands["kube-controller-manager"] = app.NewControllerManagerCommand
}
