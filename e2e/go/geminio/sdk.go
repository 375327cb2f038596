package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/client"
	"github.com/singchia/geminio/delegate"
	"github.com/singchia/geminio/options"
)

// The thin layer that the Go SDK puts over geminio: an edge is an end whose streams name a service, a service one whose calls,
// messages and streams name an edge.

// newEdge connects an edge, as NewEdge and NewNoRetryEdge do.
func newEdge(dialer client.Dialer, meta []byte, wish uint64, retry bool, dlgt delegate.ClientDelegate) (geminio.End, error) {
	opts := client.NewEndOptions()
	opts.SetDelegate(dlgt)
	if meta != nil {
		opts.SetMeta(meta)
	}
	if wish != 0 {
		opts.SetClientID(wish)
	}
	if retry {
		return client.NewRetryEndWithDialer(dialer, opts)
	}
	return client.NewEndWithDialer(dialer, opts)
}

// service is an end that reaches edges.
type service struct {
	geminio.End
}

// newService connects a service, as NewService does.
func newService(dialer client.Dialer, name string, topics []string, retry bool, dlgt delegate.ClientDelegate) (geminio.End, error) {
	meta, err := json.Marshal(struct {
		Service string   `json:"service"`
		Topics  []string `json:"topics"`
	}{name, topics})
	if err != nil {
		return nil, err
	}
	opts := client.NewEndOptions()
	opts.SetDelegate(dlgt)
	opts.SetMeta(meta)
	opts.SetBufferSize(1024, 1024)
	var end geminio.End
	if retry {
		end, err = client.NewRetryEndWithDialer(dialer, opts)
	} else {
		end, err = client.NewEndWithDialer(dialer, opts)
	}
	if err != nil {
		return nil, err
	}
	return &service{end}, nil
}

// withTail puts the edge's ID behind what the user has in custom.
func withTail(custom []byte, edge uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), custom...), edge)
}

// tail is the edge's ID behind custom, and what was before it.
func tail(custom []byte) (uint64, []byte) {
	at := len(custom) - 8
	if at < 0 {
		return 0, custom
	}
	return binary.BigEndian.Uint64(custom[at:]), custom[:at]
}

func (s *service) callEdge(ctx context.Context, edge uint64, method string, req geminio.Request, opts ...*options.CallOptions) (geminio.Response, error) {
	req.SetCustom(withTail(req.Custom(), edge))
	rsp, err := s.Call(ctx, method, req, opts...)
	if err == nil {
		rsp.SetClientID(edge)
	}
	return rsp, err
}

func (s *service) publishEdge(ctx context.Context, edge uint64, msg geminio.Message, opts ...*options.PublishOptions) error {
	msg.SetCustom(withTail(msg.Custom(), edge))
	return s.Publish(ctx, msg, opts...)
}

// Register wraps the handler as the SDK does: the edge's ID is the client, the tail stays in custom, and the context is that of the
// registration.
func (s *service) Register(ctx context.Context, method string, handler geminio.RPC) error {
	return s.End.Register(ctx, method, func(_ context.Context, req geminio.Request, rsp geminio.Response) {
		edge, _ := tail(req.Custom())
		req.SetClientID(edge)
		handler(ctx, req, rsp)
	})
}

func (s *service) Receive(ctx context.Context) (geminio.Message, error) {
	msg, err := s.End.Receive(ctx)
	if err != nil {
		return nil, err
	}
	edge, custom := tail(msg.Custom())
	msg.SetClientID(edge)
	msg.SetCustom(custom)
	return msg, nil
}

// registerEdgeID offers to say which ID an edge gets.
func (s *service) registerEdgeID(ctx context.Context, handler func(meta []byte) (uint64, error)) error {
	return s.End.Register(ctx, "get_edge_id", func(_ context.Context, req geminio.Request, rsp geminio.Response) {
		id, err := handler(req.Data())
		if err != nil {
			rsp.SetError(err)
			return
		}
		rsp.SetData(binary.BigEndian.AppendUint64(nil, id))
	})
}

// registerPresence offers edge_online or edge_offline.
func (s *service) registerPresence(ctx context.Context, method string, handler func(edge uint64, meta []byte, addr string) error) error {
	return s.End.Register(ctx, method, func(_ context.Context, req geminio.Request, rsp geminio.Response) {
		var about struct {
			EdgeID uint64
			Meta   []byte
			Net    string
			Str    string
		}
		err := json.Unmarshal(req.Data(), &about)
		if err == nil && about.Net != "tcp" {
			err = errors.New("no network in presence: " + string(req.Data()))
		}
		if err == nil {
			err = handler(about.EdgeID, about.Meta, about.Str)
		}
		if err != nil {
			rsp.SetError(err)
		}
	})
}
