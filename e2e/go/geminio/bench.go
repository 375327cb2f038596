package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jumboframes/armorigo/log"
	"github.com/singchia/geminio"
	"github.com/singchia/geminio/delegate"
	"github.com/singchia/geminio/options"
)

// measured is what a bench tells in the end. Times are in microseconds.
type measured struct {
	Ops   uint64  `json:"ops"`
	Bytes uint64  `json:"bytes"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// meter counts operations since the last reset.
type meter struct {
	mu    sync.Mutex
	bytes uint64
	ops   uint64
	took  []time.Duration
}

// bencher holds edges and their service in one process.
type bencher struct {
	kind     string
	down     bool
	inFlight int
	size     int
	svc      *service
	edges    []geminio.End
	meter    meter
}

// bench loads a gateway with edges and a service, as fast as answers come. It says "ready" when everybody is at work, begins to count at
// the first line of its input and tells what was counted at the second.
func bench(args []string) error {
	// It warns of full queues, which are what a full load is about.
	log.SetLevel(log.LevelError)
	b := &bencher{}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.StringVar(&b.kind, "kind", "call", "call, publish or stream")
	flags.BoolVar(&b.down, "down", false, "from the service to the edges")
	flags.IntVar(&b.inFlight, "in-flight", 8, "operations of each edge in flight")
	flags.IntVar(&b.size, "payload", 64, "bytes of a payload")
	flags.IntVar(&b.size, "write", 64, "the same, of a write to the one stream there is")
	count := flags.Int("edges", 10, "edges that take part")
	edgeAddr := flags.String("edge", "", "where edges connect")
	serviceAddr := flags.String("service", "", "where the service connects")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.kind == "stream" {
		*count, b.inFlight = 1, 1
	}
	if err := b.connect(*edgeAddr, *serviceAddr, *count); err != nil {
		return err
	}
	failed := make(chan error, 1)
	for n, edge := range b.edges {
		for range b.inFlight {
			go func() {
				if err := b.work(n, edge); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}()
		}
	}
	fmt.Println("ready")
	told := make(chan error, 1)
	go func() { told <- b.tell() }()
	select {
	case err := <-failed:
		return err
	case err := <-told:
		return err
	}
}

func (b *bencher) connect(edgeAddr, serviceAddr string, count int) error {
	dlgt := &quiet{UnimplementedDelegate: &delegate.UnimplementedDelegate{}}
	end, err := newService((&line{address: serviceAddr}).dial, "bench", []string{"load"}, false, dlgt)
	if err != nil {
		return err
	}
	b.svc = end.(*service)
	echo := func(_ context.Context, req geminio.Request, rsp geminio.Response) { rsp.SetData(req.Data()) }
	if err := b.svc.Register(context.Background(), "echo", echo); err != nil {
		return err
	}
	go acknowledge(b.svc)
	for range count {
		edge, err := newEdge((&line{address: edgeAddr}).dial, []byte("bench"), 0, false, dlgt)
		if err != nil {
			return err
		}
		if err := edge.Register(context.Background(), "echo", echo); err != nil {
			return err
		}
		go acknowledge(edge)
		b.edges = append(b.edges, edge)
	}
	return nil
}

func acknowledge(end geminio.End) {
	for {
		msg, err := end.Receive(context.Background())
		if err != nil {
			return
		}
		msg.Done()
	}
}

// work is one operation after the other, or one stream.
func (b *bencher) work(n int, edge geminio.End) error {
	if b.kind == "stream" {
		return b.stream(edge)
	}
	data := bytes.Repeat([]byte{byte(n), 'x'}, b.size)[:b.size]
	for {
		start := time.Now()
		if err := b.once(edge, data); err != nil {
			return err
		}
		b.meter.done(time.Since(start), len(data))
	}
}

func (b *bencher) once(edge geminio.End, data []byte) error {
	ctx := context.Background()
	if b.kind == "publish" {
		if b.down {
			return b.svc.publishEdge(ctx, edge.ClientID(), b.svc.NewMessage(data))
		}
		msg := edge.NewMessage(data)
		msg.SetTopic("load")
		return edge.Publish(ctx, msg)
	}
	var rsp geminio.Response
	var err error
	if b.down {
		rsp, err = b.svc.callEdge(ctx, edge.ClientID(), "echo", b.svc.NewRequest(data))
	} else {
		rsp, err = edge.Call(ctx, "echo", edge.NewRequest(data))
	}
	if err == nil && !bytes.Equal(rsp.Data(), data) {
		err = errors.New("wrong answer")
	}
	return err
}

// stream writes as fast as it goes; the other end counts.
func (b *bencher) stream(edge geminio.End) error {
	opener, acceptor, peer := edge, geminio.End(b.svc), "bench"
	if b.down {
		opener, acceptor, peer = acceptor, opener, fmt.Sprint(edge.ClientID())
	}
	failed := make(chan error, 1)
	go func() { failed <- b.count(acceptor) }()
	opt := options.OpenStream()
	opt.SetPeer(peer)
	stream, err := opener.OpenStream(opt)
	if err != nil {
		return err
	}
	go func() {
		written, piece := uint64(0), make([]byte, b.size)
		for {
			fill(piece, written)
			if _, err := stream.Write(piece); err != nil {
				failed <- err
				return
			}
			written += uint64(len(piece))
		}
	}()
	return <-failed
}

func (b *bencher) count(end geminio.End) error {
	stream, err := end.AcceptStream()
	if err != nil {
		return err
	}
	got, piece, want := uint64(0), make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := stream.Read(piece)
		if err != nil {
			return err
		}
		if fill(want[:n], got); !bytes.Equal(piece[:n], want[:n]) {
			return fmt.Errorf("wrong bytes after %d", got)
		}
		got += uint64(n)
		b.meter.done(0, n)
	}
}

// period is as long as the pattern of a stream before it repeats: odd, so that no lost power of two goes unnoticed.
const period = 4093

var pattern = func() []byte {
	all := make([]byte, period+64<<10)
	for at := range all {
		n := uint32(at%period) * 2654435761
		all[at] = byte(n >> 24)
	}
	return all
}()

// fill makes the piece of a stream's pattern that begins so far from its start.
func fill(piece []byte, at uint64) {
	copy(piece, pattern[at%period:])
}

func (m *meter) done(took time.Duration, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops++
	m.bytes += uint64(bytes)
	if took > 0 {
		m.took = append(m.took, took)
	}
}

// tell waits for the two lines.
func (b *bencher) tell() error {
	lines, m := bufio.NewScanner(os.Stdin), &b.meter
	if !lines.Scan() {
		return errors.New("no start")
	}
	m.mu.Lock()
	m.ops, m.bytes, m.took = 0, 0, nil
	m.mu.Unlock()
	if !lines.Scan() {
		return errors.New("no end")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.took)
	at := func(share float64) float64 {
		if len(m.took) == 0 {
			return 0
		}
		rank := int(math.Ceil(share*float64(len(m.took)))) - 1
		return float64(m.took[max(rank, 0)].Nanoseconds()) / 1e3
	}
	return json.NewEncoder(os.Stdout).Encode(measured{m.ops, m.bytes, at(0.5), at(0.99), at(0.999), at(1)})
}
