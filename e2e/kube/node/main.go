// All programs of a one-node Kubernetes in one binary, which starts the one that its name or first argument says.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
)

// Programs made of a cobra command; the files `c_*.go` add themselves.
var commands = map[string]func() *cobra.Command{}

// Programs that read their arguments themselves, the first being their name.
var programs = map[string]func(args []string){}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args
	if !known(name) && len(args) > 1 {
		name, args = args[1], args[1:]
	}
	os.Args = args
	if command, ok := commands[name]; ok {
		os.Exit(cli.Run(command()))
	}
	if program, ok := programs[name]; ok {
		program(args)
		return
	}
	names := slices.Collect(maps.Keys(commands))
	names = slices.AppendSeq(names, maps.Keys(programs))
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "usage: node %s [flags]\n", strings.Join(names, "|"))
	os.Exit(2)
}

func known(name string) bool {
	_, command := commands[name]
	_, program := programs[name]
	return command || program
}
