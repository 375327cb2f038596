package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/server"
)

// serve is a server of geminio's own, for clients that are not of this module: it prints where it listens and runs until its input
// ends. Calls of `echo` come back, calls of `fail` are errors, calls of `ask` are passed back to the client as calls of `whoami`; messages
// are done; streams are echoed.
func serve() error {
	listener, err := server.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("serving on", listener.Addr())
	for {
		end, err := listener.AcceptEnd()
		if err != nil {
			return err
		}
		go attend(end)
	}
}

func attend(end geminio.End) {
	ctx := context.Background()
	methods := map[string]geminio.RPC{
		"echo": func(_ context.Context, req geminio.Request, rsp geminio.Response) { rsp.SetData(req.Data()) },
		"fail": func(_ context.Context, _ geminio.Request, rsp geminio.Response) { rsp.SetError(errors.New("as you wish")) },
		"ask": func(ctx context.Context, req geminio.Request, rsp geminio.Response) {
			answer, err := end.Call(ctx, "whoami", end.NewRequest(req.Data()))
			if err != nil {
				rsp.SetError(err)
				return
			}
			rsp.SetData(answer.Data())
		},
	}
	for name, method := range methods {
		if err := end.Register(ctx, name, method); err != nil {
			return
		}
	}
	go func() {
		for {
			msg, err := end.Receive(ctx)
			if err != nil {
				return
			}
			msg.Done()
		}
	}()
	for {
		stream, err := end.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			io.Copy(stream, stream)
			stream.Close()
		}()
	}
}
