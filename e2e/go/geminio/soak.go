package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/delegate"
	"github.com/singchia/geminio/options"
)

// patience is how long an operation may take. All are answered at once, so an operation that runs into it was lost.
const patience = 15 * time.Second

// soak plays an edge or a service for a while: it connects, does everything an edge or a service does, closes or breaks the connection at
// any moment, and begins anew. After each life it tells the outcomes, "<operation> <ok or error>".
//
// Services offer the method echo-<name>, take the topic topic-<name> and echo streams; edges offer echo.
func soak(c *command) (said, error) {
	s := &soaker{c: c, random: rand.New(rand.NewPCG(uint64(c.Seed), 1)), until: time.Now().Add(time.Duration(c.Count) * time.Millisecond)}
	for time.Now().Before(s.until) {
		s.life()
		tell(event{"lived", said{Outcomes: s.tally.take()}})
	}
	return said{}, nil
}

var dump sync.Once

// stacks tells where everybody is: whether the library hangs in itself.
func stacks() {
	all := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "an operation was lost:\n%s\n", all[:runtime.Stack(all, true)])
}

type soaker struct {
	c      *command
	random *rand.Rand
	until  time.Time
	tally  tally
	// Edges that called this service lately, for it to call back.
	mu    sync.Mutex
	edges []uint64
}

// life is one connection.
func (s *soaker) life() {
	l := &line{address: s.c.Address}
	dlgt := &quiet{UnimplementedDelegate: &delegate.UnimplementedDelegate{}}
	var end geminio.End
	var err error
	if s.c.Role == "edge" {
		end, err = newEdge(l.dial, []byte("soak"), 0, false, dlgt)
	} else {
		end, err = newService(l.dial, s.c.Name, []string{"topic-" + s.c.Name}, false, dlgt)
	}
	if err != nil {
		s.tally.add("connect " + err.Error())
		time.Sleep(10 * time.Millisecond)
		return
	}
	s.tally.add("connect ok")
	method := "echo"
	if s.c.Role == "service" {
		method = "echo-" + s.c.Name
	}
	err = end.Register(context.Background(), method, func(_ context.Context, req geminio.Request, rsp geminio.Response) {
		s.remember(req.ClientID())
		rsp.SetData(req.Data())
	})
	if err != nil {
		s.tally.add("register " + err.Error())
	}
	var inside sync.WaitGroup
	inside.Go(func() { s.receiveAll(end) })
	inside.Go(func() { s.acceptAll(end) })

	lasting := time.Duration(200+s.random.IntN(2500)) * time.Millisecond
	over := time.Now().Add(lasting)
	seeds := []uint64{s.random.Uint64(), s.random.Uint64(), s.random.Uint64()}
	for _, seed := range seeds {
		inside.Go(func() {
			random := rand.New(rand.NewPCG(seed, 2))
			for time.Now().Before(over) && time.Now().Before(s.until) {
				if !s.operation(end, random) {
					return
				}
			}
		})
	}
	time.Sleep(time.Until(over))
	if s.random.IntN(2) == 0 {
		l.reset()
		s.tally.add("break ok")
	}
	start := time.Now()
	end.Close()
	inside.Wait()
	if took := time.Since(start); took > patience {
		dump.Do(stacks)
		s.tally.add(fmt.Sprintf("close took %v", took.Round(time.Second)))
	} else {
		s.tally.add("close ok")
	}
}

func (s *soaker) remember(edge uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edges = append(s.edges, edge)
	if len(s.edges) > 8 {
		s.edges = s.edges[1:]
	}
}

// operation does one thing; false when the connection is over.
func (s *soaker) operation(end geminio.End, random *rand.Rand) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	target := s.c.Topics[random.IntN(len(s.c.Topics))]
	var edge uint64
	svc, isService := end.(*service)
	if isService {
		s.mu.Lock()
		if len(s.edges) > 0 {
			edge = s.edges[random.IntN(len(s.edges))]
		}
		s.mu.Unlock()
		if edge == 0 {
			time.Sleep(10 * time.Millisecond)
			return time.Now().Before(s.until)
		}
	}
	data := payload{Seed: random.Uint64N(1000), Len: 1 + random.IntN(4096)}
	kind, err := "call", error(nil)
	switch random.IntN(5) {
	case 0, 1:
		var rsp geminio.Response
		if isService {
			rsp, err = svc.callEdge(ctx, edge, "echo", end.NewRequest(data.bytes()))
		} else {
			rsp, err = end.Call(ctx, "echo-"+target, end.NewRequest(data.bytes()))
		}
		if err == nil && string(rsp.Data()) != string(data.bytes()) {
			err = errors.New("wrong answer")
		}
	case 2, 3:
		kind = "publish"
		msg := end.NewMessage(data.bytes())
		if isService {
			err = svc.publishEdge(ctx, edge, msg)
		} else {
			msg.SetTopic("topic-" + target)
			err = end.Publish(ctx, msg)
		}
	case 4:
		kind = "stream"
		opt := options.OpenStream()
		opt.SetPeer(target)
		if isService {
			opt.SetPeer(fmt.Sprint(edge))
		}
		err = s.echoed(end, opt, data)
	}
	outcome := "ok"
	if err != nil {
		outcome = err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			outcome = "lost"
			dump.Do(stacks)
		}
	}
	s.tally.add(kind + " " + outcome)
	return outcome != "EOF" && !strings.Contains(outcome, "closed")
}

// echoed opens a stream, writes to it and wants the same back.
func (s *soaker) echoed(end geminio.End, opt *options.OpenStreamOptions, data payload) error {
	stream, err := end.OpenStream(opt)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := stream.Write(data.bytes()); err != nil {
		return err
	}
	back := make(chan error, 1)
	go func() {
		told, err := read(&command{Count: data.Len}, stream)
		switch {
		case err != nil:
			back <- err
		case told.EOF:
			// The other end may leave at any moment.
			back <- errors.New("ended")
		case *told.Data != *summary(data.bytes()):
			back <- errors.New("wrong bytes")
		default:
			back <- nil
		}
	}()
	select {
	case err := <-back:
		return err
	case <-time.After(patience):
		return context.DeadlineExceeded
	}
}

// receiveAll acknowledges every message, some with an error.
func (s *soaker) receiveAll(end geminio.End) {
	for n := 0; ; n++ {
		msg, err := end.Receive(context.Background())
		if err != nil {
			return
		}
		s.remember(msg.ClientID())
		if n%10 == 9 {
			msg.Error(errors.New("no more of these"))
		} else {
			msg.Done()
		}
	}
}

// acceptAll echoes every stream.
func (s *soaker) acceptAll(end geminio.End) {
	for {
		stream, err := end.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			defer stream.Close()
			piece := make([]byte, 4096)
			for {
				n, err := stream.Read(piece)
				if err != nil {
					return
				}
				if _, err := stream.Write(piece[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// quiet is a delegate that says nothing.
type quiet struct {
	*delegate.UnimplementedDelegate
}
