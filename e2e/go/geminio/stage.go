package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/delegate"
	"github.com/singchia/geminio/options"
)

// stage holds everything that commands have made. Numbers are never used again.
type stage struct {
	mu       sync.Mutex
	last     uint64
	ends     map[uint64]*member
	streams  map[uint64]geminio.Stream
	requests map[uint64]chan verdict
	messages map[uint64]geminio.Message
	cancels  map[uint64]context.CancelFunc
}

// member is an edge or a service.
type member struct {
	geminio.End
	line *line
}

// verdict is what a test says to a request that it holds.
type verdict struct {
	data []byte
	id   uint64
	err  error
}

func newStage() *stage {
	return &stage{
		ends:     map[uint64]*member{},
		streams:  map[uint64]geminio.Stream{},
		requests: map[uint64]chan verdict{},
		messages: map[uint64]geminio.Message{},
		cancels:  map[uint64]context.CancelFunc{},
	}
}

// number gives the next number; the lock is held.
func (s *stage) number() uint64 {
	s.last++
	return s.last
}

// do does a command.
func (s *stage) do(c *command) (said, error) {
	switch c.Do {
	case "connect":
		return s.connect(c)
	case "respond":
		return said{}, s.respond(c)
	case "done":
		return said{}, s.settle(c)
	case "cancel":
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.cancels[c.Of]; cancel != nil {
			cancel()
			return said{}, nil
		}
		return said{}, fmt.Errorf("no command %d", c.Of)
	case "soak":
		return soak(c)
	}
	end, stream, err := s.find(c)
	if err != nil {
		return said{}, err
	}
	ctx, stop := s.context(c)
	defer stop()
	switch c.Do {
	case "id":
		return said{Client: end.ClientID()}, nil
	case "register":
		return said{}, s.register(c, end, stream)
	case "call":
		return s.call(ctx, c, end, stream)
	case "call_many":
		return s.callMany(ctx, c, end, stream)
	case "publish":
		return said{}, s.publish(ctx, c, end, stream)
	case "publish_many":
		return s.publishMany(ctx, c, end, stream)
	case "receive":
		return s.receive(ctx, stream)
	case "receive_many":
		return s.receiveMany(ctx, c, stream)
	case "open":
		return s.open(c, end)
	case "accept":
		return s.accept(end)
	case "streams":
		return said{Count: len(end.ListStreams()) - 1}, nil
	case "write":
		return write(c, stream)
	case "read":
		return read(c, stream)
	case "close":
		return said{}, stream.Close()
	case "break":
		end.line.reset()
		return said{}, nil
	}
	return said{}, fmt.Errorf("no command %q", c.Do)
}

// find looks up the end and the stream that a command is about; the end is a stream, too.
func (s *stage) find(c *command) (*member, geminio.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.ends[c.End]
	if end == nil {
		return nil, nil, fmt.Errorf("no end %d", c.End)
	}
	if c.Stream == 0 {
		return end, end.End, nil
	}
	stream := s.streams[c.Stream]
	if stream == nil {
		return nil, nil, fmt.Errorf("no stream %d", c.Stream)
	}
	return end, stream, nil
}

// context is that of one command: it can be cancelled by another one.
func (s *stage) context(c *command) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	if c.Deadline > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(c.Deadline)*time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancels[c.ID] = cancel
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancels, c.ID)
	}
}

// === connections ===

// line is the connection of an end, the newest one if it reconnects.
type line struct {
	address, ca string

	mu   sync.Mutex
	conn net.Conn
	tcp  *net.TCPConn
}

func (l *line) dial() (net.Conn, error) {
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if l.ca != "" {
		pem, err := os.ReadFile(l.ca)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "gateway.example"})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.tcp = conn, tcp
	return conn, nil
}

// reset breaks the connection without a word.
func (l *line) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp != nil {
		l.tcp.SetLinger(0)
		l.tcp.Close()
	}
}

// presence tells of an end's connections.
type presence struct {
	*delegate.UnimplementedDelegate
	end uint64
}

func (p *presence) ConnOffline(delegate.ConnDescriber) error {
	tell(event{"offline", said{End: p.end}})
	return nil
}

// EndReOnline comes when a new connection is made and all methods are registered on it.
func (p *presence) EndReOnline(end delegate.ClientDescriber) {
	tell(event{"online", said{End: p.end, Client: end.ClientID()}})
}

func (s *stage) connect(c *command) (said, error) {
	s.mu.Lock()
	number := s.number()
	s.mu.Unlock()
	l := &line{address: c.Address, ca: c.CA}
	dlgt := &presence{UnimplementedDelegate: &delegate.UnimplementedDelegate{}, end: number}
	var end geminio.End
	var err error
	switch c.Role {
	case "edge":
		var meta []byte
		if c.Data != (payload{}) {
			meta = c.Data.bytes()
		}
		end, err = newEdge(l.dial, meta, c.Wish, c.Retry, dlgt)
	case "service":
		end, err = newService(l.dial, c.Name, c.Topics, c.Retry, dlgt)
	default:
		err = fmt.Errorf("no role %q", c.Role)
	}
	if err != nil {
		return said{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[number] = &member{End: end, line: l}
	return said{End: number, Client: end.ClientID()}, nil
}

// === calls ===

// register offers a method. How it answers: "echo" gives back what came, "fail" makes an error of it, "hold" lets the test answer.
func (s *stage) register(c *command, end *member, stream geminio.Stream) error {
	if svc, is := end.End.(*service); is && c.Stream == 0 {
		switch c.Name {
		case "get_edge_id":
			return svc.registerEdgeID(context.Background(), func(meta []byte) (uint64, error) {
				v := s.hold(context.Background(), c, said{Name: c.Name, Data: summary(meta)})
				return v.id, v.err
			})
		case "edge_online", "edge_offline":
			return svc.registerPresence(context.Background(), c.Name, func(edge uint64, meta []byte, addr string) error {
				return s.hold(context.Background(), c, said{Name: c.Name, Client: edge, Data: summary(meta), Addr: addr}).err
			})
		}
	}
	return stream.Register(context.Background(), c.Name, func(ctx context.Context, req geminio.Request, rsp geminio.Response) {
		switch c.How {
		case "echo":
			rsp.SetData(req.Data())
		case "fail":
			rsp.SetError(errors.New(string(req.Data())))
		case "hold":
			about := said{Name: req.Method(), Client: req.ClientID(), Data: summary(req.Data()), Custom: hex.EncodeToString(req.Custom())}
			if deadline, set := ctx.Deadline(); set {
				about.Left = max(time.Until(deadline).Milliseconds(), 1)
			}
			v := s.hold(ctx, c, about)
			rsp.SetData(v.data)
			rsp.SetError(v.err)
		default:
			rsp.SetError(fmt.Errorf("how to answer: %q?", c.How))
		}
	})
}

// hold tells the test of a request and waits for its verdict.
func (s *stage) hold(ctx context.Context, c *command, about said) verdict {
	ch := make(chan verdict, 1)
	s.mu.Lock()
	about.Of = s.number()
	s.requests[about.Of] = ch
	s.mu.Unlock()
	about.End, about.Stream = c.End, c.Stream
	tell(event{"request", about})
	select {
	case v := <-ch:
		return v
	case <-ctx.Done():
		tell(event{"cancelled", said{End: c.End, Of: about.Of, Name: about.Name}})
	}
	return <-ch
}

func (s *stage) respond(c *command) error {
	s.mu.Lock()
	ch := s.requests[c.Of]
	delete(s.requests, c.Of)
	s.mu.Unlock()
	if ch == nil {
		return fmt.Errorf("no request %d", c.Of)
	}
	v := verdict{data: c.Data.bytes(), id: c.Edge}
	if c.Error != "" {
		v.err = errors.New(c.Error)
	}
	ch <- v
	return nil
}

func (s *stage) call(ctx context.Context, c *command, end *member, stream geminio.Stream) (said, error) {
	req := stream.NewRequest(c.Data.bytes())
	if c.Custom != "" {
		req.SetCustom([]byte(c.Custom))
	}
	var opts []*options.CallOptions
	if c.Timeout > 0 {
		opt := options.Call()
		opt.SetTimeout(time.Duration(c.Timeout) * time.Millisecond)
		opts = append(opts, opt)
	}
	svc, is := end.End.(*service)
	if c.How == "async" {
		if is && c.Stream == 0 {
			req.SetCustom(withTail(req.Custom(), c.Edge))
		}
		call, err := stream.CallAsync(ctx, c.Name, req, nil, opts...)
		if err != nil {
			return said{}, err
		}
		return said{}, (<-call.Done).Error
	}
	var rsp geminio.Response
	var err error
	if is && c.Stream == 0 {
		rsp, err = svc.callEdge(ctx, c.Edge, c.Name, req, opts...)
	} else {
		rsp, err = stream.Call(ctx, c.Name, req, opts...)
	}
	if err != nil {
		return said{}, err
	}
	return said{Client: rsp.ClientID(), Data: summary(rsp.Data())}, nil
}

// callMany makes many calls of a method that echoes, so many at once, and counts what became of them.
func (s *stage) callMany(ctx context.Context, c *command, end *member, stream geminio.Stream) (said, error) {
	var counted tally
	counted.many(c.Count, c.Window, func(n int) string {
		one := *c
		one.Data = payload{Text: fmt.Sprintf("%d of %s", n, c.Name)}
		told, err := s.call(ctx, &one, end, stream)
		switch {
		case err != nil:
			return err.Error()
		case told.Data.Text != one.Data.Text:
			return "wrong answer"
		}
		return "ok"
	})
	return said{Outcomes: counted.outcomes}, nil
}

// === messages ===

func newMessage(c *command, stream geminio.Stream, data []byte) geminio.Message {
	msg := stream.NewMessage(data)
	if c.Name != "" {
		msg.SetTopic(c.Name)
	}
	if c.Custom != "" {
		msg.SetCustom([]byte(c.Custom))
	}
	return msg
}

func (s *stage) publish(ctx context.Context, c *command, end *member, stream geminio.Stream) error {
	msg := newMessage(c, stream, c.Data.bytes())
	var opts []*options.PublishOptions
	if c.Timeout > 0 {
		opt := options.Publish()
		opt.SetTimeout(time.Duration(c.Timeout) * time.Millisecond)
		opts = append(opts, opt)
	}
	svc, is := end.End.(*service)
	if c.How == "async" {
		if is && c.Stream == 0 {
			msg.SetCustom(withTail(msg.Custom(), c.Edge))
		}
		publish, err := stream.PublishAsync(ctx, msg, nil, opts...)
		if err != nil {
			return err
		}
		return (<-publish.Done).Error
	}
	if is && c.Stream == 0 {
		return svc.publishEdge(ctx, c.Edge, msg, opts...)
	}
	return stream.Publish(ctx, msg, opts...)
}

// publishMany publishes numbered messages in their order, so many of them unacknowledged, and counts what became of them.
func (s *stage) publishMany(ctx context.Context, c *command, end *member, stream geminio.Stream) (said, error) {
	var counted tally
	var waiting sync.WaitGroup
	room := make(chan struct{}, max(c.Window, 1))
	_, isService := end.End.(*service)
	for n := range c.Count {
		room <- struct{}{}
		msg := newMessage(c, stream, numbered(n, c.Data.Len))
		if isService && c.Stream == 0 {
			msg.SetCustom(withTail(msg.Custom(), c.Edge))
		}
		publish, err := stream.PublishAsync(ctx, msg, nil)
		if err != nil {
			counted.add(err.Error())
			<-room
			continue
		}
		waiting.Go(func() {
			err := (<-publish.Done).Error
			if err != nil {
				counted.add(err.Error())
			} else {
				counted.add("ok")
			}
			<-room
		})
	}
	waiting.Wait()
	return said{Outcomes: counted.outcomes}, nil
}

func (s *stage) receive(ctx context.Context, stream geminio.Stream) (said, error) {
	msg, err := stream.Receive(ctx)
	if err != nil {
		return said{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	number := s.number()
	s.messages[number] = msg
	return said{Of: number, Client: msg.ClientID(), Name: msg.Topic(), Data: summary(msg.Data()), Custom: hex.EncodeToString(msg.Custom())}, nil
}

// settle acknowledges a message that was received, or says what is wrong with it.
func (s *stage) settle(c *command) error {
	s.mu.Lock()
	msg := s.messages[c.Of]
	delete(s.messages, c.Of)
	s.mu.Unlock()
	switch {
	case msg == nil:
		return fmt.Errorf("no message %d", c.Of)
	case c.Error != "":
		return msg.Error(errors.New(c.Error))
	}
	return msg.Done()
}

// receiveMany takes numbered messages until it has so many, each of which must be the one behind the one before it.
func (s *stage) receiveMany(ctx context.Context, c *command, stream geminio.Stream) (said, error) {
	for n := range c.Count {
		msg, err := stream.Receive(ctx)
		if err != nil {
			return said{Count: n}, err
		}
		if want := string(numbered(n, len(msg.Data()))); string(msg.Data()) != want {
			return said{Count: n}, fmt.Errorf("message %d is %.40q", n, msg.Data())
		}
		if err := msg.Done(); err != nil {
			return said{Count: n}, err
		}
	}
	return said{Count: c.Count}, nil
}

// numbered is the message with a number, filled up to a length.
func numbered(n, length int) []byte {
	text := fmt.Appendf(nil, "message %d ", n)
	for len(text) < length {
		text = append(text, '.')
	}
	return text
}

// === streams ===

func (s *stage) keep(stream geminio.Stream) said {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := s.number()
	s.streams[number] = stream
	return said{Stream: number, Name: stream.Peer(), Data: summary(stream.Meta()), Client: stream.ClientID()}
}

func (s *stage) open(c *command, end *member) (said, error) {
	opt := options.OpenStream()
	if _, is := end.End.(*service); is {
		opt.SetPeer(fmt.Sprint(c.Edge))
	} else {
		opt.SetPeer(c.Name)
	}
	if c.Data != (payload{}) {
		opt.SetMeta(c.Data.bytes())
	}
	stream, err := end.OpenStream(opt)
	if err != nil {
		return said{}, err
	}
	return s.keep(stream), nil
}

func (s *stage) accept(end *member) (said, error) {
	stream, err := end.AcceptStream()
	if err != nil {
		return said{}, err
	}
	return s.keep(stream), nil
}

// write writes all of the payload in pieces.
func write(c *command, stream geminio.Stream) (said, error) {
	rest := c.Data.bytes()
	written := 0
	for len(rest) > 0 {
		piece := rest
		if c.Chunk > 0 {
			piece = rest[:min(c.Chunk, len(rest))]
		}
		n, err := stream.Write(piece)
		written += n
		if err != nil {
			return said{Count: written}, err
		}
		rest = rest[n:]
		if c.Pause > 0 {
			time.Sleep(time.Duration(c.Pause) * time.Millisecond)
		}
	}
	return said{Count: written}, nil
}

// read reads so many bytes, or to the end if the count is negative.
func read(c *command, stream geminio.Stream) (said, error) {
	var all []byte
	piece := make([]byte, 32*1024)
	if c.Chunk > 0 {
		piece = piece[:min(c.Chunk, len(piece))]
	}
	for c.Count < 0 || len(all) < c.Count {
		want := piece
		if c.Count >= 0 {
			want = piece[:min(len(piece), c.Count-len(all))]
		}
		n, err := stream.Read(want)
		all = append(all, want[:n]...)
		if errors.Is(err, io.EOF) {
			return said{Count: len(all), Data: summary(all), EOF: true}, nil
		}
		if err != nil {
			return said{Count: len(all), Data: summary(all)}, err
		}
		if c.Pause > 0 {
			time.Sleep(time.Duration(c.Pause) * time.Millisecond)
		}
	}
	return said{Count: len(all), Data: summary(all)}, nil
}

// === tally ===

// tally counts outcomes.
type tally struct {
	mu       sync.Mutex
	outcomes map[string]int
}

func (t *tally) add(outcome string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outcomes == nil {
		t.outcomes = map[string]int{}
	}
	t.outcomes[outcome]++
}

// take gives what was counted and begins anew.
func (t *tally) take() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.outcomes
	t.outcomes = nil
	return taken
}

// many does something many times, so many at once.
func (t *tally) many(count, window int, once func(int) string) {
	var waiting sync.WaitGroup
	room := make(chan struct{}, max(window, 1))
	for n := range count {
		room <- struct{}{}
		waiting.Go(func() {
			t.add(once(n))
			<-room
		})
	}
	waiting.Wait()
}
