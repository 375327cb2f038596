// Geminiopeer is a Go peer of the interop tests: edges and services built on the geminio module, played from outside.
//
// It reads commands from its input, a JSON object a line, does each on a goroutine of its own, and writes answers and events, a line
// each, to its output. The end of its input is its own end. It is built once per generation of geminio: go.mod is generation C, a.mod
// and b.mod are generations A and B. Called with `bench` it is a load instead (bench.go), with `serve` a server (serve.go), with `gateway` a
// gateway that reports to a registry (gateway.go).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/jumboframes/armorigo/log"
)

// command is one line of input. Every command uses the fields it needs.
type command struct {
	ID uint64 `json:"id"`
	Do string `json:"do"`

	End    uint64 `json:"end"`    // an edge or a service, as numbered by connect
	Stream uint64 `json:"stream"` // a stream, as numbered by open and accept; 0 is the end itself
	Edge   uint64 `json:"edge"`   // the edge that a service means
	Of     uint64 `json:"of"`     // the request, message or command that this one is about
	Name   string `json:"name"`   // a method, a topic or a service
	Error  string `json:"error"`
	How    string `json:"how"`

	Data   payload `json:"data"`
	Custom string  `json:"custom"`
	Count  int     `json:"count"`
	Window int     `json:"window"`
	Chunk  int     `json:"chunk"`
	// Milliseconds.
	Timeout  int64 `json:"timeout"`  // given to geminio as an option
	Deadline int64 `json:"deadline"` // of the context
	Pause    int64 `json:"pause"`    // after each chunk

	Role    string   `json:"role"`
	Address string   `json:"address"`
	CA      string   `json:"ca"` // a file; connects by TLS
	Topics  []string `json:"topics"`
	Wish    uint64   `json:"wish"`
	Retry   bool     `json:"retry"`
	Seed    int64    `json:"seed"`
}

// answer is what became of a command.
type answer struct {
	ID    uint64 `json:"id"`
	Error string `json:"error,omitempty"`
	said
}

// event tells of something nobody asked for.
type event struct {
	Event string `json:"event"`
	said
}

// said is what answers and events tell.
type said struct {
	End      uint64         `json:"end,omitempty"`
	Stream   uint64         `json:"stream,omitempty"`
	Of       uint64         `json:"of,omitempty"`
	Client   uint64         `json:"client,omitempty"`
	Name     string         `json:"name,omitempty"`
	Data     *payload       `json:"data,omitempty"`
	Custom   string         `json:"custom,omitempty"` // in hex
	Addr     string         `json:"addr,omitempty"`
	Count    int            `json:"count,omitempty"`
	EOF      bool           `json:"eof,omitempty"`
	Left     int64          `json:"left,omitempty"` // milliseconds until the deadline of a handler's context
	Outcomes map[string]int `json:"outcomes,omitempty"`
}

var output struct {
	sync.Mutex
	*json.Encoder
}

// tell writes a line.
func tell(line any) {
	output.Lock()
	defer output.Unlock()
	if err := output.Encode(line); err != nil {
		// Nobody listens any more.
		os.Exit(0)
	}
}

func main() {
	output.Encoder = json.NewEncoder(os.Stdout)
	log.SetOutput(os.Stderr)
	// Generations A and B say there what they drop.
	log.SetLevel(log.LevelInfo)
	if len(os.Args) > 1 && os.Args[1] == "bench" {
		if err := bench(os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "geminiopeer: %v\n", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serve(); err != nil {
			fmt.Fprintf(os.Stderr, "geminiopeer: %v\n", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "gateway" {
		if err := gateway(os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "geminiopeer: %v\n", err)
			os.Exit(1)
		}
		return
	}
	stage := newStage()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintf(os.Stderr, "geminiopeer: %q: %v\n", lines.Text(), err)
			os.Exit(2)
		}
		go func() {
			told, err := stage.do(&c)
			a := answer{ID: c.ID, said: told}
			if err != nil {
				a.Error = err.Error()
				if a.Error == "" {
					a.Error = "(empty)"
				}
			}
			tell(a)
		}()
	}
}
