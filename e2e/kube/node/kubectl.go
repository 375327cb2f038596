package main

import (
	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/cmd"
)

func init() {
	commands["kubectl"] = func() *cobra.Command { return cmd.NewDefaultKubectlCommand() }
}
