package main

import (
	"fmt"
	"hash/fnv"
	"unicode/utf8"
)

// shown is how long a text may be to be told as it is.
const shown = 1024

// payload stands for bytes. Short texts are written out, anything else is a pattern made from a seed, and told by its length and hash.
type payload struct {
	Text string `json:"text,omitempty"`
	Seed uint64 `json:"seed,omitempty"`
	Len  int    `json:"len,omitempty"`
	Hash string `json:"hash,omitempty"`
}

// bytes are what a payload of a command stands for.
func (p payload) bytes() []byte {
	if p.Len == 0 {
		return []byte(p.Text)
	}
	all := make([]byte, p.Len)
	for i := range all {
		n := uint64(i)
		all[i] = byte(p.Seed*101 + n*7 + n>>8*13)
	}
	return all
}

// summary tells of bytes that were received.
func summary(data []byte) *payload {
	hash := fnv.New64a()
	hash.Write(data)
	p := &payload{Len: len(data), Hash: fmt.Sprintf("%016x", hash.Sum64())}
	if len(data) <= shown && utf8.Valid(data) {
		p.Text = string(data)
	}
	return p
}
