// Yamuxpeer is the Go side of the interop tests of Frontier's yamux engine: hashicorp/yamux, told by flags what to do.
//
// It dials or listens on one TCP connection, is the yamux client or server on it, runs one mode and exits with 0 if all it
// saw was right. What a test wants to compare it prints, a line each.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// options are the flags that modes look at.
type options struct {
	streams int
	bytes   int
	window  uint
	lasting time.Duration
}

// mode does one thing with a session.
type mode func(*yamux.Session, options) error

var modes = map[string]mode{
	"echo":         echo,
	"load":         load,
	"half-close":   halfClose,
	"reset":        reset,
	"close-resets": closeResets,
	"refuse":       refuse,
	"refused":      refused,
	"slow-reader":  slowReader,
	"blocked":      blocked,
	"ping":         ping,
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("yamuxpeer: ")
	dial := flag.String("dial", "", "address to connect to")
	listen := flag.String("listen", "", "address to listen on; the one chosen is printed")
	role := flag.String("role", "server", "yamux role: client or server")
	name := flag.String("mode", "echo", "what to do")
	var opts options
	flag.IntVar(&opts.streams, "streams", 1, "streams to open, or to expect")
	flag.IntVar(&opts.bytes, "bytes", 0, "bytes per stream")
	flag.UintVar(&opts.window, "window", 256*1024, "receive window of a stream")
	flag.DurationVar(&opts.lasting, "for", 0, "how long to send")
	flag.Parse()
	run, known := modes[*name]
	if !known {
		log.Fatalf("no mode %q", *name)
	}
	conn, err := connect(*dial, *listen)
	if err != nil {
		log.Fatal(err)
	}
	session, err := start(conn, *role, *name, opts)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(session, opts); err != nil {
		log.Fatalf("%s: %v", *name, err)
	}
	fmt.Println("done")
	// The other side closes first, so that what was written last is not lost to a reset of the connection.
	<-session.CloseChan()
}

func connect(dial, listen string) (net.Conn, error) {
	if dial != "" {
		return net.Dial("tcp", dial)
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	fmt.Println("listening", listener.Addr())
	return listener.Accept()
}

func start(conn net.Conn, role, mode string, opts options) (*yamux.Session, error) {
	config := yamux.DefaultConfig()
	config.LogOutput = os.Stderr
	config.AcceptBacklog = 1024
	config.MaxStreamWindowSize = uint32(opts.window)
	switch mode {
	case "refuse":
		config.AcceptBacklog = 1
	case "close-resets":
		config.StreamCloseTimeout = 50 * time.Millisecond
	}
	if role == "client" {
		return yamux.Client(conn, config)
	}
	return yamux.Server(conn, config)
}

// pattern is what both sides of every test send: the byte at a place of a stream, in either direction.
func pattern(stream uint32, at int) byte {
	return byte(int(stream)*7 + at + (at>>8)*3)
}

func patternBytes(stream uint32, at, n int) []byte {
	all := make([]byte, n)
	for i := range all {
		all[i] = pattern(stream, at+i)
	}
	return all
}

// checked reads a stream to its end and compares with the pattern.
func checked(stream *yamux.Stream) (int, error) {
	buffer := make([]byte, 32*1024)
	total := 0
	for {
		n, err := stream.Read(buffer)
		for i, b := range buffer[:n] {
			if want := pattern(stream.StreamID(), total+i); b != want {
				return total, fmt.Errorf("stream %d: byte %d is %d, not %d", stream.StreamID(), total+i, b, want)
			}
		}
		total += n
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("stream %d: %w", stream.StreamID(), err)
		}
	}
}

// exactly reads a stream to its end and fails if that is not after n bytes.
func exactly(stream *yamux.Stream, n int) error {
	total, err := checked(stream)
	if err == nil && total != n {
		err = fmt.Errorf("stream %d ended after %d bytes, not %d", stream.StreamID(), total, n)
	}
	return err
}

// echo sends back what arrives, on every stream, and ends when the other side closes the connection.
func echo(session *yamux.Session, _ options) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return nil
		}
		group.Go(func() {
			if _, err := io.Copy(stream, stream); err != nil {
				log.Fatalf("echo of stream %d: %v", stream.StreamID(), err)
			}
			stream.Close()
		})
	}
}

// load sends the pattern on as many streams of either side, reads as much at the same time, and prints both totals.
func load(session *yamux.Session, opts options) error {
	var group sync.WaitGroup
	var mutex sync.Mutex
	var sent, received int
	end := time.Now().Add(opts.lasting)
	serve := func(stream *yamux.Stream) {
		group.Go(func() {
			total := 0
			for total < opts.bytes || time.Now().Before(end) {
				size := 64 * 1024
				if opts.bytes > 0 {
					size = min(size, opts.bytes-total)
				}
				n, err := stream.Write(patternBytes(stream.StreamID(), total, size))
				if err != nil {
					log.Fatalf("stream %d after %d bytes: %v", stream.StreamID(), total, err)
				}
				total += n
			}
			if err := stream.Close(); err != nil {
				log.Fatal(err)
			}
			mutex.Lock()
			defer mutex.Unlock()
			sent += total
		})
		group.Go(func() {
			total, err := checked(stream)
			if err != nil {
				log.Fatal(err)
			}
			mutex.Lock()
			defer mutex.Unlock()
			received += total
		})
	}
	for range opts.streams {
		group.Go(func() {
			stream, err := session.OpenStream()
			if err != nil {
				log.Fatal(err)
			}
			serve(stream)
		})
		group.Go(func() {
			stream, err := session.AcceptStream()
			if err != nil {
				log.Fatal(err)
			}
			serve(stream)
		})
	}
	group.Wait()
	fmt.Println("sent", sent, "received", received)
	return nil
}

// halfClose answers a stream after its end, then ends one of its own and waits for the answer.
func halfClose(session *yamux.Session, opts options) error {
	stream, err := session.AcceptStream()
	if err != nil {
		return err
	}
	if err := exactly(stream, opts.bytes); err != nil {
		return err
	}
	if _, err := stream.Write(patternBytes(stream.StreamID(), 0, 2*opts.bytes)); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	if stream, err = session.OpenStream(); err != nil {
		return err
	}
	if _, err := stream.Write(patternBytes(stream.StreamID(), 0, opts.bytes)); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	if err := exactly(stream, 2*opts.bytes); err != nil {
		return err
	}
	if n := session.NumStreams(); n != 0 {
		return fmt.Errorf("%d streams are left", n)
	}
	return nil
}

// reset reads a stream until the other side resets it, then shows on another that the session lives.
func reset(session *yamux.Session, opts options) error {
	stream, err := session.AcceptStream()
	if err != nil {
		return err
	}
	total, err := checked(stream)
	if !errors.Is(err, yamux.ErrConnectionReset) {
		return fmt.Errorf("read ended with %v after %d bytes", err, total)
	}
	if _, err := stream.Write([]byte("x")); !errors.Is(err, yamux.ErrConnectionReset) {
		return fmt.Errorf("write after a reset: %v", err)
	}
	if stream, err = session.AcceptStream(); err != nil {
		return err
	}
	if err := exactly(stream, opts.bytes); err != nil {
		return err
	}
	return stream.Close()
}

// closeResets ends a stream whose other half the other side never ends: after a while hashicorp/yamux resets it.
func closeResets(session *yamux.Session, opts options) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write(patternBytes(stream.StreamID(), 0, opts.bytes)); err != nil {
		return err
	}
	return stream.Close()
}

// refuse accepts nothing: beyond a backlog of one, streams are reset.
func refuse(*yamux.Session, options) error {
	return nil
}

// refused opens a stream that the other side resets at once.
func refused(session *yamux.Session, _ options) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	if n, err := checked(stream); n != 0 || !errors.Is(err, yamux.ErrConnectionReset) {
		return fmt.Errorf("read ended with %v after %d bytes", err, n)
	}
	return nil
}

// slowReader reads nothing of the first stream until the second one arrives.
func slowReader(session *yamux.Session, opts options) error {
	slow, err := session.AcceptStream()
	if err != nil {
		return err
	}
	fast, err := session.AcceptStream()
	if err != nil {
		return err
	}
	if err := exactly(fast, opts.bytes); err != nil {
		return err
	}
	return exactly(slow, opts.bytes)
}

// blocked writes until the other side's window is used up, says so, and goes on when there is more.
func blocked(session *yamux.Session, opts options) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	if err := stream.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return err
	}
	n, err := stream.Write(patternBytes(stream.StreamID(), 0, opts.bytes))
	if !errors.Is(err, yamux.ErrTimeout) {
		return fmt.Errorf("%d bytes were written, then %v", n, err)
	}
	fmt.Println("blocked", n)
	signal, err := session.OpenStream()
	if err != nil {
		return err
	}
	if err := signal.Close(); err != nil {
		return err
	}
	if err := stream.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	if _, err := stream.Write(patternBytes(stream.StreamID(), n, opts.bytes-n)); err != nil {
		return err
	}
	return stream.Close()
}

// ping measures a few round trips.
func ping(session *yamux.Session, opts options) error {
	for range opts.streams {
		if _, err := session.Ping(); err != nil {
			return err
		}
	}
	return nil
}
